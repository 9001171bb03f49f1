"""The service's fixtures, for tests beside other people's programs.

Those programs' dependencies contradict ours, so they live in environments of their own, and a test is collected only
where a variable names its program: `make test` needs none of them.
"""

import os

from tests.examples.conftest import keyed
from tests.service.conftest import service, start, tokenizer

__all__ = ["keyed", "service", "start", "tokenizer"]

collect_ignore = [] if os.environ.get("GUARD_LITELLM") else ["test_litellm_proxy.py"]
