"""The two ways to ask from Python: in this process, or a service over OpenAI's official client.

The one rule: only `allow` lets a text pass; an error is a decision of its own, or an exception.
"""

from __future__ import annotations

import sys

from openai import OpenAI

from guard import Decision, Moderator

COMMENT = "Thanks, that fixed it for me."


def in_this_process() -> bool:
    """Is it acceptable? The first call loads the model, so keep the moderator."""
    moderator = Moderator.load()
    verdict = moderator.judge(COMMENT, policy="forum-comments")
    return verdict.decision is Decision.ALLOW


def over_http(url: str) -> bool:
    """Is it acceptable? Raises `openai.APIError` if guard cannot be reached or cannot judge."""
    with OpenAI(base_url=f"{url}/v1", api_key="unused", timeout=20) as client:
        reply = client.moderations.create(input=COMMENT, extra_body={"policy": "forum-comments"})
    return not reply.results[0].flagged


if __name__ == "__main__":
    print(in_this_process(), over_http(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"))
