"""Receives Discourse's webhook for posts, and flags for the moderators what guard does not allow.

The one rule: a flag is a message to moderators; nothing is hidden or removed by a machine.

In Discourse: a webhook for post events with a secret, the site setting `retry_web_hook_events` (without it a post that
could not be judged is never sent again), and an API key of a user of guard's own. In the environment: DISCOURSE_URL,
DISCOURSE_SECRET, DISCOURSE_KEY, DISCOURSE_USER, and what `webhook.py` reads.
"""

from __future__ import annotations

import urllib.error
from typing import Any

from webhook import call, complaint, serve, setting

_NOTIFY_MODERATORS = 7  # the flag "something else", with a message


def receive(event: dict[str, Any]) -> None:
    """Judge a post that was written or edited, and flag it unless it is acceptable. Raises what kept it from that."""
    post = event.get("post")
    # Our own flags are private messages, of which Discourse tells us as well.
    if not post or post.get("deleted_at") or post.get("topic_archetype") == "private_message":
        return
    title = post.get("topic_title") if post.get("post_number") == 1 else None
    found = complaint("\n\n".join(filter(None, [title, post["raw"]])))
    if found is not None:
        _flag(post["id"], found[0])


def _flag(post: int, line: str) -> None:
    url = setting("DISCOURSE_URL").rstrip("/")
    headers = {"Api-Key": setting("DISCOURSE_KEY"), "Api-Username": setting("DISCOURSE_USER")}
    flag = {"id": post, "post_action_type_id": _NOTIFY_MODERATORS, "message": line}
    try:
        call(f"{url}/post_actions.json", flag, headers)
    except urllib.error.HTTPError as refused:
        with refused:  # a second flag is refused: it comes after an edit, or if our first answer was lost
            done = call(f"{url}/posts/{post}.json", None, headers).get("actions_summary", [])
        if not any(action.get("id") == _NOTIFY_MODERATORS and action.get("acted") for action in done):
            raise


if __name__ == "__main__":
    for name in ("GUARD_URL", "DISCOURSE_URL", "DISCOURSE_KEY", "DISCOURSE_USER"):
        setting(name)
    serve("X-Discourse-Event-Signature", setting("DISCOURSE_SECRET"), receive)
