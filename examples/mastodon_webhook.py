"""Receives Mastodon's webhook for statuses, and reports to the moderators what guard does not allow.

The one rule: what the reporting account may not see is not judged either, since it could not be reported.

In Mastodon: a webhook for status.created and status.updated, and an application with the scope `write:reports` on an
account of guard's own. In the environment: MASTODON_URL, MASTODON_SECRET, MASTODON_TOKEN, and what `webhook.py` reads.
"""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from webhook import call, complaint, serve, setting


def receive(event: dict[str, Any]) -> None:
    """Judge a status that was written or edited, and report it unless it is acceptable. Raises what hindered it."""
    if event.get("event") not in ("status.created", "status.updated"):
        return
    status = event["object"]
    if status["visibility"] not in ("public", "unlisted"):
        return
    found = complaint(_words(status))
    if found is not None:
        line, categories = found
        report = {
            "account_id": status["account"]["id"], "status_ids": [status["id"]], "comment": line,
            "category": "spam" if categories == ["spam"] else "other",
        }  # fmt: skip
        headers = {"Authorization": f"Bearer {setting('MASTODON_TOKEN')}"}
        call(f"{setting('MASTODON_URL').rstrip('/')}/api/v1/reports", report, headers)


def _words(status: dict[str, Any]) -> str:
    """All that a reader reads: the warning, the text, the poll's options, the descriptions of pictures."""
    options = (status.get("poll") or {}).get("options", [])
    pictures = status.get("media_attachments") or []
    parts = [
        status.get("spoiler_text"), text_of(status["content"]), *(option["title"] for option in options),
        *(picture.get("description") for picture in pictures),
    ]  # fmt: skip
    return "\n\n".join(filter(None, parts))


def text_of(html: str) -> str:
    """The text of a status's HTML, with its line breaks."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "".join(reader.parts).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("br", "li", "blockquote", "pre"):
            self.parts.append("\n")
        elif tag == "p":
            self.parts.append("\n\n" if self.parts else "")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


if __name__ == "__main__":
    for name in ("GUARD_URL", "MASTODON_URL", "MASTODON_TOKEN"):
        setting(name)
    serve("X-Hub-Signature", setting("MASTODON_SECRET"), receive)
