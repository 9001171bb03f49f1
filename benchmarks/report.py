"""docs/performance.md: the figures of the last `make bench` between its marks, and the plots beside it.

`python -m benchmarks.report` takes out/bench/results.jsonl, keeps it as docs/performance.jsonl and writes both anew.
A test fails when the page differs from what its figures say.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, KEPT = ROOT / "out" / "bench" / "results.jsonl", ROOT / "docs" / "performance.jsonl"
PAGE, PLOTS = ROOT / "docs" / "performance.md", ROOT / "docs" / "plots"
_MARKED = re.compile(r"(<!-- figures: written by `make bench-report` -->\n).*?(<!-- end of figures -->)", re.DOTALL)

Results = dict[str, dict[str, Any]]


def load(path: Path) -> Results:
    """The JSON lines by the name of their benchmark."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["benchmark"]: line for line in lines}


def table(head: list[str], rows: list[list[object]]) -> str:
    lines: list[Sequence[object]] = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def figures(found: Results) -> str:
    """All tables, in the order of the benchmarks."""
    sections = (
        _scoring,
        _questions,
        _latency,
        _window,
        _stream,
        _heads,
        _company,
        _embedded,
        _weights,
        _load,
        _release,
        _scan,
    )
    where = found["scoring"]
    faults = [f"{name}: {fault}" for name, line in found.items() for fault in line["faults"]]
    held = f"What did not hold: {'; '.join(faults)}." if faults else "Everything that the benchmarks promise held."
    parts = [f"Machine: {where['machine']}; {where['date']}. {held}"]
    for section in sections:
        line = found[section.__name__[1:]]
        other = (line["machine"], line["date"]) != (where["machine"], where["date"])
        parts.append(section(found) + (f"\n\nMeasured on {line['machine']}; {line['date']}." if other else ""))
    return "\n\n".join(parts) + "\n"


def _scoring(found: Results) -> str:
    line = found["scoring"]
    rows: list[list[object]] = [["**guard**", "bf16", line["guard"], "1.00", line["agreement_with_float32"]]]
    for name, rate in sorted(line["peers"].items(), key=lambda pair: -pair[1]):
        slower = f"{line['guard'] / rate:.2f}"
        rows.append(
            [f"{name} ({line['versions'][name]})", line["precision"][name], rate, slower, line["agreement"][name]]
        )
    for name, rate in sorted(line["int8"].items(), key=lambda pair: -pair[1]):
        key = f"{name} int8"
        rows.append([key, line["precision"][key], rate, f"{line['guard'] / rate:.2f}", line["agreement"][key]])
    shares = table(["part", "share of the time"], [[part, f"{share:.1%}"] for part, share in line["parts"].items()])
    lengths = table(["tokens of the content", *line["by_length"]], [["items/s", *line["by_length"].values()]])
    return f"""### Scoring

Items a second, medians of rounds in which all take turns; agreement of the decisions with guard's (guard's own: with
transformers in float32).

{table(["engine", "precision", "items/s", "guard is times as fast", "agreement"], rows)}

The linear layers alone, every token through every layer at the fastest rate measured in the same rounds, would allow
{line["ceiling"]} items/s: guard reaches {line["of_ceiling"]:.0%} of that. Of the last layer a verdict needs less; with
that left out the ceiling is {line["needed_ceiling"]} items/s, and guard reaches {line["of_needed_ceiling"]:.0%}.

{shares}

{lengths}

![items a second against content length](plots/length.svg)
![share of the time by part](plots/parts.svg)"""


def _questions(found: Results) -> str:
    rows = [
        [name, case["ratio"], case["tokens"], case["overhead"], case["ms_per_content"]]
        for name, case in found["questions"]["cases"].items()
    ]
    head = ["contents and questions (tokens)", "thirteen cost", "tokens say", "ratio of the two", "ms per content"]
    return f"""### Thirteen questions about one content

{table(head, rows)}

![cost against the number of questions](plots/questions.svg)"""


def _latency(found: Results) -> str:
    line = found["latency"]
    rows = [
        [name, case["guard ms"], case["our layers ms"], case["transformers ms"], case["ratio"]]
        for name, case in line["cases"].items()
    ]
    head = ["tokens of the content", "guard, ms", "bare pass, our layers, ms", "bare pass, transformers, ms", "ratio"]
    return f"""### One comment alone

{table(head, rows)}

The ratio is to the faster bare pass. The embedded model takes {line["embedded_ms"]} ms from text to verdict."""


def _window(found: Results) -> str:
    line = found["window"]
    rows = [
        [length, case["full s"], case["window s"], case["speedup"], case["full GFLOP/s"]]
        for length, case in line["attention"].items()
    ]
    took = line["end_to_end_s"]
    return f"""### Sliding window of {line["window"]}

{table(["tokens", "full, s a layer", "window, s a layer", "times faster", "full, GFLOP/s"], rows)}

The whole pre-fill of {line["length"]} tokens, linear layers included: {took["full"]} s full, {took["window"]} s with
the window.

![window against full attention](plots/window.svg)"""


def _stream(found: Results) -> str:
    line = found["stream"]
    whole, windowed = line["cases"]["whole"], line["cases"]["window"]
    rows: list[list[object]] = [
        [
            f"{int(n):,}",
            *(f"{case[n][what] / 2**20:,.1f}" for what in ("resident", "peak") for case in (whole, windowed)),
        ]
        for n in whole
    ]
    head = ["tokens", "held, whole", f"held, W = {line['window']:,}", "peak, whole", f"peak, W = {line['window']:,}"]
    return f"""### A running text

MiB that a text holds between calls, and at the peak while it grows by {line["chunk"]:,} at a time ({line["layers"]}
layers of the reference model; the peak is the operating system's, products and allocator included):

{table(head, rows)}"""


def _heads(found: Results) -> str:
    cases = found["heads"]["cases"]
    rows = [[name, case["kv_heads"], case["ms"], case["bytes_per_token"]] for name, case in cases.items()]
    head = ["attention", "key-value heads", "ms a layer", "bytes kept per token"]
    return f"""### Heads

The attention of one layer, 28 contents of 74 tokens behind a policy of 430, 12 query heads:

{table(head, rows)}"""


def _company(found: Results) -> str:
    line = found["company"]
    rows = [[name, f"{case['largest_difference']:.1e}", case["flips"]] for name, case in line["cases"].items()]
    head = ["kernels and precision", "largest difference of a score", f"decisions of {line['comments']} that flip"]
    return f"""### The same text in any company

Cold, cached, alone, in a batch of {line["comments"]}, in another order, among half of the others:

{table(head, rows)}"""


def _embedded(found: Results) -> str:
    line = found["embedded"]
    return f"""### The embedded model

{line["guard"]} comments a second under `{line["policy"]}` ({line["comments"]} comments of {line["tokens_per_comment"]}
tokens on average, from text to verdict). An encoder classifier of {line["encoder_weights"] / 1e6:.0f}M weights,
BERT-base's shape, on the same token ids: {line["encoder"]} a second. guard is {line["ratio"]} times as fast."""


def _weights(found: Results) -> str:
    line = found["weights"]
    rows: list[list[object]] = [
        [
            name, f"{case['bytes'] / 2**20:.1f}", case["speed"], f"{case['same']:.1%}", case["moved_mean"],
            case["moved_most"],
        ]
        for name, case in line["cases"].items()
    ]  # fmt: skip
    head = ["weights", "MiB of matrices", "speed", "same decisions", "score moves on average", "at most"]
    return f"""### Fewer bits, and adapters

The embedded model under `{line["policy"]}` on {line["comments"]} comments, from text to verdict; speed and agreement
against the full weights ({line["full_a_second"]} comments a second). `adapter` is LoRA of rank {line["rank"]} with
random numbers on every matrix, against the same weights merged:

{table(head, rows)}"""


def _load(found: Results) -> str:
    line = found["load"]
    crowd = line["overload"]
    answers = ", ".join(f"{n:,} with {status}" for status, n in crowd["statuses"].items())
    rows: list[list[object]] = [
        [f"{line['clients']} clients, a comment each at a time: comments/s", line["service"]],
        ["the engine on the same comments, all at once: comments/s", line["engine"]],
        ["the clients' share of that", f"{line['share']:.0%}"],
        ["one client: ms by HTTP", line["http_ms"]],
        ["of which HTTP and the engine's process add: ms", line["overhead_ms"]],
        ["99 % of the requests of 16 comments at half of the sustained rate: s", crowd["half_load_p99_s"]],
        ["the same of those admitted at twice the sustained rate: s", crowd["accepted_p99_s"]],
        ["times as long", crowd["wait"]],
    ]
    return f"""### The service under load

`guard serve` with the embedded model under `{line["policy"]}`, asked over a socket by another process.

{table(["", "figure"], rows)}

At twice the sustained rate, for {crowd["minutes"]:g} minutes, the answers were {answers}. Memory of both processes
over that time, MiB: {", ".join(map(str, crowd["memory_mib"]))}."""


def _release(found: Results) -> str:
    line = found["release"]
    names = {"score": "judged at the end", "block": "judged behind it", "hold": "judged before it leaves"}
    rows: list[list[object]] = [
        [f"`{mode}`, {names[mode]}", *(f"{case[mode][key]} ({case[f'none, beside {mode}'][key]})" for key in _DELAYS)]
        for case in (line["cases"]["paced"],)
        for mode in names
    ]
    fast = {mode: line["cases"]["fast"][mode]["last_ms"] for mode in names}
    return f"""### A streamed answer

Delay of a word from when the assistant sent it to when the client has it, in ms, a word each {line["pause_ms"]:g} ms;
in brackets the delay without a guard, in the same rounds. Each prefix of {line["words"]} words
is judged by the embedded model.

{table(["release", "first word", "median word", "99 % of the words", "last word"], rows)}

Sent as fast as the assistant can, the last word comes {fast["score"]:,.0f} ms late in `score`, {fast["block"]:,.0f} in
`block`, {fast["hold"]:,.0f} in `hold`: so long takes the judge for {line["words"]} prefixes."""


def _scan(found: Results) -> str:
    line = found["scan"]
    rows: list[list[object]] = [
        ["the embedded model: rows/s of a whole scan", line["scan"]],
        ["the engine on the same rows, all at once: rows/s", line["engine"]],
        ["the scan's share of that", f"{line['share']:.0%}"],
        [f"peak memory at {line['rows'] // 10:,} rows, without a model: MiB", line["memory_small_mib"]],
        [f"the same at {line['rows']:,} rows: MiB", line["memory_mib"]],
        [f"{line['rows']:,} rows without a model: s", line["seconds"]],
        ["foretold by `--dry-run`: s", line["foretold_seconds"]],
        ["what going on after a kill costs beside loading and the block that was lost: s", line["resume_seconds"]],
        ["of the time that the model would take for these rows", f"{line['resume_share']:.2%}"],
    ]
    return f"""### A scan

`guard scan` of comments of which hardly two are the same, under `{line["policy"]}`. "Without a model" is with the fake
engine, which leaves only what is around it. A scan that was killed at half its rows and started again
({line["killed_seconds"]} s and {line["rest_seconds"]} s) gave the same output, byte for byte.

{table(["", "figure"], rows)}"""


_DELAYS = ("first_ms", "word_ms", "p99_ms", "last_ms")


def page(text: str, found: Results) -> str:
    """The page with its figures written anew."""
    assert _MARKED.search(text)
    return _MARKED.sub(lambda match: match[1] + figures(found) + match[2], text)


def plot(found: Results, folder: Path) -> None:
    """Four SVG files, the same bytes for the same figures."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "guard"
    from matplotlib import pyplot

    folder.mkdir(exist_ok=True)
    scoring, questions, window = found["scoring"], found["questions"]["cases"], found["window"]["attention"]

    def save(name: str, draw: Any, **labels: Any) -> None:
        figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
        draw(axes)
        axes.set(**labels)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)

    lengths = {int(length): rate for length, rate in scoring["by_length"].items()}
    save(
        "length", lambda axes: axes.plot(list(lengths), list(lengths.values()), marker="o"),
        xlabel="tokens of the content", ylabel="items/s", xscale="log", ylim=(0, None),
    )  # fmt: skip
    save(
        "parts", lambda axes: axes.barh(list(scoring["parts"]), [100 * share for share in scoring["parts"].values()]),
        xlabel="share of the time, %",
    )  # fmt: skip

    def cost(axes: Any) -> None:
        for name, case in questions.items():
            if name.startswith("32"):
                numbers = [key for key in case if key.startswith("x")]
                axes.plot([int(key[1:]) for key in numbers], [case[key] for key in numbers], marker="o", label=name)

    save("questions", cost, xlabel="questions", ylabel="times the cost of one", ylim=(0, None))

    def seconds(axes: Any) -> None:
        for kind in ("full", "window"):
            axes.plot([int(n) for n in window], [case[f"{kind} s"] for case in window.values()], marker="o", label=kind)

    save("window", seconds, xlabel="tokens", ylabel="attention, s a layer")


def main() -> None:
    shutil.copyfile(RESULTS, KEPT)
    found = load(KEPT)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    plot(found, PLOTS)
    print(f"wrote {PAGE} and {PLOTS}")


if __name__ == "__main__":
    main()
