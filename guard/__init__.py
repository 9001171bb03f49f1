"""`guard` judges prompts, answers and comments by a policy, with a language model that reflects on them.

from guard import Moderator

moderator = Moderator.load()
print(moderator.judge("How do I kill a Linux process?").decision)
"""

from guard.errors import GuardError
from guard.item import Item, Kind
from guard.moderator import Moderator
from guard.policy import Category, Policy
from guard.verdict import Decision, Verdict

__version__ = "0.1.0"
__all__ = ["Category", "Decision", "GuardError", "Item", "Kind", "Moderator", "Policy", "Verdict"]
