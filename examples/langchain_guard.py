"""A LangChain Runnable around a chat model: what goes in is judged, and what comes out, with langchain-core alone.

The one rule: nothing passes that was not judged. So an answer is not streamed: LangChain gets it whole, once judged.
"""

from __future__ import annotations

from typing import Any

import httpx
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig


class NotAcceptable(Exception):
    """A prompt that was not sent on, or an answer that was kept back; `verdict` says why."""

    def __init__(self, what: str, verdict: dict[str, Any]) -> None:
        super().__init__(f"The {what} is not acceptable: {', '.join(verdict['categories']) or verdict['reason']}.")
        self.verdict = verdict


class Guarded(Runnable[LanguageModelInput, BaseMessage]):
    """A chat model between two judgements, to be put into a chain in its place.

    `invoke` raises `NotAcceptable`, and `httpx.HTTPError` if guard cannot be reached or cannot judge.
    """

    def __init__(
        self, model: BaseChatModel, url: str = "http://127.0.0.1:8080", *, policy: str = "moderation-13", key: str = ""
    ) -> None:
        self.model = model
        self.policy = policy
        self.url = f"{url.rstrip('/')}/v1/chat/moderations"
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> BaseMessage:
        messages = input.to_messages() if isinstance(input, PromptValue) else _messages(input)
        asked = [_turn("user", message) for message in messages if isinstance(message, HumanMessage)][-1:]
        self._check("prompt", asked)
        answer = self.model.invoke(messages, config, **kwargs)
        self._check("answer", [*asked, _turn("assistant", answer)])
        return answer

    def _check(self, what: str, turns: list[dict[str, str]]) -> None:
        """Raises as `invoke` does. A last turn without a word (an answer that only calls tools) is not judged."""
        if turns and turns[-1]["content"].strip():
            told = [turn for turn in turns if turn["content"].strip()]
            body = {"model": self.policy, "input": told}
            reply = httpx.post(self.url, json=body, headers=self.headers, timeout=20)
            verdict = reply.raise_for_status().json()["results"][0]["guard"]
            if verdict["decision"] != "allow" and reply.headers.get("x-guard-mode") != "shadow":
                raise NotAcceptable(what, verdict)


def _messages(input: Any) -> list[BaseMessage]:
    return [HumanMessage(input)] if isinstance(input, str) else convert_to_messages(input)


def _turn(role: str, message: BaseMessage) -> dict[str, str]:
    return {"role": role, "content": str(message.text)}
