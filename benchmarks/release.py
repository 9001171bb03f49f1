"""What the guard adds to a streamed answer: a real `guard serve` with the embedded model, before a scripted assistant.

The assistant says one word after another, at the pace of a model (a word each 50 ms) and as fast as it can. Each word's
delay is the time from when it was sent to when the client has it; beside it stands the delay without a guard, in the
same rounds. In `hold` no word leaves before every prefix up to it was judged, in `block` the judge runs behind, in
`score` it comes at the end. Fails if an answer does not come whole.
"""

from __future__ import annotations

import json
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median, quantiles

import httpx

from benchmarks.measure import emit
from benchmarks.serving import PATIENCE, in_thread, serving
from guard.policy import PolicyBook, as_yaml

MODES = ("score", "block", "hold")
ANSWER = (
    "To make a pot of tea, boil fresh water and warm the pot with a little of it. Put in one spoon of leaves for each "
    "cup, and one more for the pot. Pour the water on while it still boils, put the lid on, and wait for four minutes. "
    "Stir once, wait until the leaves have settled, and pour the tea through a strainer into warm cups. Milk and sugar "
    "are a matter of taste; some people put the milk in first. What is left in the pot gets bitter, so drink it soon. "
)
WORDS = [f"{word} " for word in ANSWER.split()]
PAUSE = 0.05  # seconds between words at a model's pace
ROUNDS = 5


class Assistant(ThreadingHTTPServer):
    """Says `WORDS`, `pause` seconds apart, and remembers when it sent each."""

    daemon_threads = True
    pause = 0.0
    sent: list[float]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        assistant = self.server
        assert isinstance(assistant, Assistant)
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        sent = assistant.sent = []
        for word in WORDS:
            sent.append(time.perf_counter())
            self._say({"content": word})
            time.sleep(assistant.pause)
        self._say({}, "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def _say(self, delta: dict[str, str], reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()


def lenient() -> str:
    """moderation-13 with thresholds that an answer about tea cannot reach: it is about time, not about verdicts."""
    policy = PolicyBook().get("moderation-13")
    categories = tuple(c.model_copy(update={"threshold": 0.9999}) for c in policy.categories)
    return as_yaml(policy.model_copy(update={"id": "lenient", "threshold": 0.9999, "categories": categories}))


def delays(client: httpx.Client, url: str, assistant: Assistant) -> list[float]:
    """Seconds from when each word was sent to when it has come."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "How do I make tea?"}]}
    came: list[float] = []
    text = ""
    with client.stream("POST", f"{url}/chat/completions", json=body) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
                    came += [time.perf_counter()] * (len(text.split()) - len(came))
    if text != "".join(WORDS):
        raise SystemExit(f"of {len(WORDS)} words {len(came)} came")
    return [there - here for there, here in zip(came, assistant.sent, strict=True)]


def figures(found: list[list[float]]) -> dict[str, float]:
    """Of several answers, in milliseconds."""
    every = [delay for each in found for delay in each]
    return {
        "first_ms": round(1000 * median(each[0] for each in found), 1),
        "word_ms": round(1000 * median(every), 1),
        "p99_ms": round(1000 * quantiles(every, n=100)[98], 1),
        "last_ms": round(1000 * median(each[-1] for each in found), 1),
    }


def main() -> None:
    cases: dict[str, dict[str, dict[str, float]]] = {}
    with (
        Assistant(("127.0.0.1", 0), _Handler) as assistant, in_thread(assistant),
        tempfile.TemporaryDirectory() as folder, httpx.Client(timeout=PATIENCE) as client,
    ):  # fmt: skip
        guarding = ("--policy", "lenient", "--policies", folder, "--assistant", assistant.url)
        (Path(folder) / "lenient.yaml").write_text(lenient())
        for mode in MODES:
            with serving(*guarding, GUARD_RELEASE=mode) as (address, _):
                url = f"{address}/v1"
                for name, pause in (("paced", PAUSE), ("fast", 0.0)):
                    assistant.pause = pause
                    delays(client, url, assistant)  # the first one makes connections and is not counted
                    turns = [
                        (delays(client, assistant.url, assistant), delays(client, url, assistant))
                        for _ in range(ROUNDS)
                    ]
                    case = cases.setdefault(name, {})
                    case[mode] = figures([guarded for _, guarded in turns])
                    case[f"none, beside {mode}"] = figures([bare for bare, _ in turns])
                    print(name, mode, case[mode], case[f"none, beside {mode}"], flush=True)
    emit("release", [], words=len(WORDS), pause_ms=1000 * PAUSE, cases=cases)


if __name__ == "__main__":
    main()
