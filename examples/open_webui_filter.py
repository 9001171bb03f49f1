"""
title: guard
description: Judges what users write before a model reads it, and what models answer before a user reads it.
requirements: httpx
version: 0.1.0
license: Apache-2.0

An Open WebUI Filter: paste this file into Admin Panel, Functions, and set its valves.

The one rule: only the inlet raises. Open WebUI drops an exception of the stream and of the outlet, and shows the answer
all the same; so those two write a notice in the answer's place.
"""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import BaseModel, Field

_SHOWN = ("reasoning_content", "reasoning", "content")  # the keys of a delta that a user gets to see


class Filter:
    class Valves(BaseModel):
        url: str = Field(default="http://127.0.0.1:8080", description="Where guard serves.")
        key: str = Field(default="", description="Sent as a bearer token, if there is one.")
        policy: str = Field(default="moderation-13", description="The id of the policy to judge by.")
        fail_open: bool = Field(
            default=False, description="When guard cannot be reached or cannot judge: let pass (true) or stop (false)."
        )
        hold: bool = Field(
            default=True, description="Hold a streamed answer back until it is judged. False: show it, judge it after."
        )
        seconds: float = Field(default=20, gt=0, description="How long to wait for guard.")
        notice: str = Field(
            default="This answer was removed: it is not acceptable here.", description="What stands in its place."
        )
        priority: int = Field(default=0, description="Filters with lower numbers run first.")

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def inlet(
        self, body: dict[str, Any], __user__: dict[str, Any] | None = None, __request__: Any = None
    ) -> dict[str, Any]:
        """The request, if its last message of a user is acceptable. Raises what the user is to read, if it is not."""
        prompt = _last(body, "user")
        if __request__ is not None:
            __request__.state.guard_prompt, __request__.state.guard_held = prompt, {}
        if prompt.strip():
            try:
                found = await self._unacceptable([{"role": "user", "content": prompt}])
            except _Unjudged:
                raise Exception("The message was not sent: it could not be judged. Please try again.") from None
            if found is not None:
                what = f" ({', '.join(found)})" if found else ""
                raise Exception(f"The message was not sent: it is not acceptable here{what}.")
        return body

    async def stream(self, event: dict[str, Any], __request__: Any = None) -> dict[str, Any]:
        """An event without its text, and at the answer's end one with all of it, or with the notice.

        Events of other forms than chat completions' pass as they are; the outlet judges those answers.
        """
        if not self.valves.hold or __request__ is None or not event.get("choices"):
            return event
        del event["choices"][1:]  # Open WebUI shows the first
        # Kept with the request: what an event has for an id may change from one to the next (Ollama's do).
        held: dict[str, str] = __request__.state.guard_held
        choice = event["choices"][0]
        delta = choice.setdefault("delta", {})
        for name in _SHOWN:
            held[name] = held.get(name, "") + (delta.pop(name, None) or "")
        if choice.get("finish_reason"):
            shown = {name: text for name, text in held.items() if text}
            held.clear()
            answer = "\n".join(shown.values())
            delta |= shown if await self._passes(__request__.state.guard_prompt, answer) else self._notice()
        return event

    async def outlet(self, body: dict[str, Any], __user__: dict[str, Any] | None = None) -> dict[str, Any]:
        """The finished conversation; the notice stands where an answer was that is not acceptable."""
        answer = body["messages"][-1] if body.get("messages") else {}
        if answer.get("role") == "assistant" and not await self._passes(_last(body, "user"), _text(answer)):
            answer |= self._notice()
            if answer.get("output"):  # newer versions show this instead, and keep the old one unless there is a new one
                part = {"type": "output_text", "text": self.valves.notice}
                answer["output"] = [{"type": "message", "status": "completed", "role": "assistant", "content": [part]}]
        return body

    def _notice(self) -> dict[str, str]:
        return {"content": self.valves.notice}

    async def _passes(self, prompt: str, answer: str) -> bool:
        if not answer.strip():
            return True
        turns = [{"role": "user", "content": prompt}] if prompt.strip() else []
        try:
            return await self._unacceptable([*turns, {"role": "assistant", "content": answer}]) is None
        except _Unjudged:
            return False

    async def _unacceptable(self, conversation: list[dict[str, str]]) -> list[str] | None:
        """The categories of a last message that is not acceptable, else None. Raises `_Unjudged` if it fails closed."""
        headers = {"Authorization": f"Bearer {self.valves.key}"} if self.valves.key else {}
        asked = {"model": self.valves.policy, "input": conversation}
        try:
            async with httpx.AsyncClient(timeout=self.valves.seconds, headers=headers) as client:
                reply = await client.post(f"{self.valves.url.rstrip('/')}/v1/chat/moderations", json=asked)
            reply.raise_for_status()
            verdict = reply.json()["results"][0]["guard"]
            if verdict["decision"] == "error":
                raise ValueError("The key lets pass what could not be judged; here the valve decides.")
            passes = verdict["decision"] == "allow" or reply.headers.get("x-guard-mode") == "shadow"
            return None if passes else list(verdict["categories"])
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
            if self.valves.fail_open:
                return None
            raise _Unjudged from error


class _Unjudged(Exception):
    """guard gave no verdict, and the valves say that nothing passes without one."""


def _last(body: dict[str, Any], role: str) -> str:
    """The text of the last message of a role, or none."""
    return next((_text(message) for message in reversed(body.get("messages") or []) if message.get("role") == role), "")


def _text(message: dict[str, Any]) -> str:
    """The text of a message: a string, or the text parts of a list."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or "" for part in content if part.get("type") == "text")
