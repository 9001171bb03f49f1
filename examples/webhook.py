"""What the receivers of webhooks share: a server, the check of a signature, and the question to guard.

The one rule: the sender gets a 2xx only if the post was judged and, where need be, reported. A wrong signature is 403
and nothing is judged; whatever else goes wrong is 503, for which both senders come again.

Python's standard library alone, so this file and a receiver can be copied to any machine. Set in the environment:
GUARD_URL, GUARD_KEY (if any), GUARD_POLICY (forum-comments), HOST (127.0.0.1), PORT (8090).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import sys
import urllib.request
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_LARGEST = 1 << 20  # bytes of a body
_SECONDS = 4  # for a question to guard, and for one to the sender's API: Mastodon waits ten for both


def setting(name: str, default: str | None = None) -> str:
    """A variable of the environment. Ends the program if it is empty and there is no default."""
    value = os.environ.get(name) or default
    if value is None:
        sys.exit(f"{name} is not set.")
    return value


def call(url: str, body: object, headers: Mapping[str, str] | None = None) -> Any:
    """What a server answers to JSON, or to a GET if `body` is None. Raises `OSError` or `ValueError`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
        return json.load(reply)


def complaint(text: str) -> tuple[str, list[str]] | None:
    """Of a text that is not acceptable a line for the moderators and the categories; else None. Raises as `call`."""
    if not text.strip():
        return None
    key = os.environ.get("GUARD_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    asked = {"input": text, "policy": setting("GUARD_POLICY", "forum-comments")}
    reply = call(f"{setting('GUARD_URL').rstrip('/')}/v1/moderations", asked, headers)
    (result,) = reply["results"]
    verdict = result["guard"]
    if verdict["decision"] == "error":
        raise ValueError("The key lets pass what could not be judged; here it is tried again.")
    if not result["flagged"]:
        return None
    what = ", ".join(verdict["categories"]) or "not acceptable"
    score = "" if verdict["score"] is None else f", score {verdict['score']:.2f}"  # a rule of the policy has none
    return f"guard: {verdict['decision']}, {what}{score}, policy {verdict['policy']}.", verdict["categories"]


def serve(header: str, secret: str, receive: Callable[[dict[str, Any]], None]) -> None:
    """Gives `receive` the event of each request whose `header` is `sha256=` and the body's HMAC under `secret`."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # for a sender that does not send

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch("[0-9]+", length):
                return self._end(411)
            if len(length) > 9 or int(length) > _LARGEST:
                return self._end(413)
            body = self.rfile.read(int(length))
            signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            if not hmac.compare_digest(signature.encode(), self.headers.get(header, "").encode()):
                return self._end(403)
            try:
                receive(json.loads(body))
            except Exception as error:  # whatever it is, nobody may take the post for judged
                self.log_error("%s", error if isinstance(error, OSError) else type(error).__name__)
                return self._end(503)
            self._end(204)

        def _end(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    host = setting("HOST", "127.0.0.1")
    with ThreadingHTTPServer((host, int(setting("PORT", "8090"))), Handler) as server:
        print(f"listening on http://{host}:{server.server_port}", flush=True)
        server.serve_forever()
