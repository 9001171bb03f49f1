"""`python -m eval`: run, score, report, compare, gate, sets, threads, stability, attacks, defences, refusal.

Exit: 0 done, 1 gate shut, 2 failed.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import polars as pl
import typer

from guard.cli import find_policy
from guard.errors import EXIT_ERROR, AssistantFailed, GuardError, InvalidFile, InvalidRequest
from guard.item import Kind
from guard.labelled import Columns, Labelled, LabelledSet, read_labelled
from guard.measure.promise import Promise
from guard.policy import Policy
from guard.printable import printable
from guard.settings import load_settings

from . import card, report, stability, threads
from .attacks import defences, measure, review
from .attacks.attack import SEED
from .attacks.registry import ATTACKS, find
from .attacks.sample import PER_CLASS
from .compare import Comparison, compare
from .foreign import ADAPTERS, read_foreign
from .predict import read, require_match
from .refusal import measure as refusals
from .refusal import systems
from .refusal.ask import Asking, Patience
from .refusal.figures import Partial
from .refusal.judge import POLICY
from .run import SCORES, Source, load, run, score_run
from .score import PREVALENCES, Options
from .sets import NAMES, THREADS, own_set

_EVERY = 5.0  # seconds between two lines of progress
_MARKED = re.compile(r"(<!-- evaluation: written by `make eval` -->\n).*?(<!-- end of evaluation -->)", re.DOTALL)

app = typer.Typer(help="How far can the verdicts be trusted?", add_completion=False, no_args_is_help=True)

SetsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="One of ours, FORMAT:PATH for the native file of a public set, or a labelled file."),
]
PoliciesOption = Annotated[list[str] | None, typer.Option("--policy", help="Id of a policy, or a policy file.")]
ModelsOption = Annotated[list[str] | None, typer.Option("--model", help="As `guard check --model`; may be repeated.")]
TextOption = Annotated[str, typer.Option(help="Column of the texts of a labelled file.")]
LabelOption = Annotated[str, typer.Option(help="Column of its labels.")]
IdOption = Annotated[str | None, typer.Option(help="Column of its ids. Default: the row number.")]
KindOption = Annotated[Kind | None, typer.Option(help="What its texts are, where no column says so.")]
PrevalenceOption = Annotated[
    list[float] | None, typer.Option("--prevalence", help="Share of harmful items at which precision is given, too.")
]
PriceOption = Annotated[float | None, typer.Option(help="Price of an hour of this machine, for the cost.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a run.")]


@app.command("run")
def run_command(
    sets: SetsOption = None, policies: PoliciesOption = None, models: ModelsOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on with it.")] = Path("out/eval"),
    text_column: TextOption = "text", label_column: LabelOption = "label", id_column: IdOption = None,
    kind: KindOption = None, prevalence: PrevalenceOption = None, price_per_hour: PriceOption = None,
) -> None:  # fmt: skip
    """Judge sets under policies with models, score the predictions, and write the report."""
    options = _options(prevalence, price_per_hour)
    columns = Columns(text_column, label_column, id_column)
    sources = [Source(open_set(name, columns, kind), name) for name in sets or NAMES]
    settings = [load_settings(model=model) for model in models or (None,)]
    chosen = [find_policy(settings[0], name) for name in policies or ["self-reflection"]]
    run(sources, chosen, settings, out, command=_command(), on_progress=_Progress())
    _write(out, [source.labelled for source in sources], options)


@app.command("score")
def score_command(folder: RunFolder, prevalence: PrevalenceOption = None, price_per_hour: PriceOption = None) -> None:
    """Score the saved predictions of a run again; no model is asked."""
    score_run(folder, _options(prevalence, price_per_hour), _at_hand(folder))
    print(folder / SCORES)


@app.command("report")
def report_command(
    folder: RunFolder, prevalence: PrevalenceOption = None, price_per_hour: PriceOption = None,
    readme: Annotated[Path | None, typer.Option(help="Fill the evaluation block of this README, too.")] = None,
) -> None:  # fmt: skip
    """Write report.html, report.md and scores.json of a run from its predictions."""
    scores = _write(folder, _at_hand(folder), _options(prevalence, price_per_hour))
    if readme is not None:
        readme.write_text(filled(readme.read_text(encoding="utf-8"), scores), encoding="utf-8")


@app.command("compare")
def compare_command(old: Path, new: Path) -> None:
    """List the verdicts that differ between two files of predictions, with McNemar's exact test."""
    _print(compare(read(old), read(new)))


@app.command("gate")
def gate_command(
    old: Annotated[str, typer.Option(help="A policy, a file of predictions, or the folder of a run.")],
    new: Annotated[str, typer.Option(help="The same, of what is to take its place.")],
    sets: SetsOption = None,
    max_loss: Annotated[float, typer.Option(help="The most that either class may get worse, as a share.")] = 0.0,
    require: Annotated[list[str] | None, typer.Option(help="Such as recall>=0.9; may be repeated.")] = None,
    old_model: Annotated[str | None, typer.Option(help="Model of OLD, where it is a policy.")] = None,
    new_model: Annotated[str | None, typer.Option(help="Model of NEW, where it is a policy.")] = None,
    text_column: TextOption = "text", label_column: LabelOption = "label", id_column: IdOption = None,
    kind: KindOption = None,
) -> None:  # fmt: skip
    """Exit with 1 when NEW is worse than OLD by more than stated, or does not keep what is required of it."""
    columns = Columns(text_column, label_column, id_column)
    try:
        required = tuple(map(Promise.parse, require or ()))
    except ValueError as cause:
        raise InvalidRequest(f"{cause}.") from cause
    labelled = [open_set(name, columns, kind) for name in sets or NAMES[:2]]
    policy = find_policy(load_settings(), new).id if _is_policy(new) else None
    with TemporaryDirectory() as scratch:
        before = _predictions(old, labelled, old_model, Path(scratch) / "old", policy)
        after = _predictions(new, labelled, new_model, Path(scratch) / "new", None)
    found = compare(before, after)
    _print(found)
    complaints = found.complaints(max_loss, required)
    for complaint in complaints:
        print(f"worse: {complaint}")
    print("gate: shut" if complaints else "gate: open")
    raise typer.Exit(1 if complaints else 0)


@app.command("threads")
def threads_command(
    policy: Annotated[str, typer.Option(help="A policy with the categories of forum-comments.")] = "forum-comments",
    model: Annotated[str | None, typer.Option(help="As `guard check --model`.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; run again, it goes on.")] = Path("out/threads"),
) -> None:  # fmt: skip
    """Judge our set of threads with and without the threads: what do parent comment and title add?"""
    settings = load_settings(model=model)
    chosen = find_policy(settings, policy)
    found = threads.judge(chosen, settings, out, command=_command(), on_progress=_Progress())
    print(threads.as_markdown(found), end="")


@app.command("stability")
def stability_command(
    sets: SetsOption = None,
    policy: Annotated[str, typer.Option(help="Id of a policy, or a policy file.")] = "self-reflection",
    model: Annotated[str | None, typer.Option(help="As `guard check --model`.")] = None,
    out: Annotated[Path, typer.Option(help="Folder; the same command goes on with it.")] = Path("out/stability"),
    per_class: Annotated[int, typer.Option(min=1, help="Harmful items, and as many safe ones.")] = PER_CLASS,
    seed: Annotated[int, typer.Option(help="Of the sample and of the shuffled order.")] = SEED,
    text_column: TextOption = "text", label_column: LabelOption = "label", id_column: IdOption = None,
    kind: KindOption = None,
) -> None:  # fmt: skip
    """How many verdicts flip with the batch size, the order of the categories and the wording."""
    columns = Columns(text_column, label_column, id_column)
    settings = load_settings(model=model)
    stability.measure(
        [Source(open_set(name, columns, kind), name) for name in sets or NAMES[:2]], find_policy(settings, policy),
        settings, out, command=_command(), per_class=per_class, seed=seed, on_progress=_Progress(),
    )  # fmt: skip
    print((out / stability.TABLE).read_text(encoding="utf-8"))


@app.command("sets")
def sets_command(
    training: Annotated[
        Path | None, typer.Option(help="Folder of further training rows (*.jsonl.gz) to look for shared words in.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the statistics into eval/sets/README.md.")] = False,
) -> None:
    """Our own sets: their statistics, and whether they keep their rules. Exit status 1 when they do not."""
    if write:
        card.write()
    print(card.statistics())
    print("formats of public sets:", ", ".join(ADAPTERS))
    faults = card.faults(training)
    for fault in faults:
        print(printable(fault))
    raise typer.Exit(1 if faults else 0)


@app.command("attacks")
def attacks_command(
    names: Annotated[
        list[str] | None, typer.Option("--attack", help="One by its name, or some composed: homoglyphs+padding.")
    ] = None,
    sets: SetsOption = None,
    policy: Annotated[str, typer.Option(help="Id of a policy, or a policy file.")] = "self-reflection",
    model: Annotated[str | None, typer.Option(help="As `guard check --model`.")] = None,
    out: Annotated[Path, typer.Option(help="Folder; the same command goes on with it.")] = Path("out/attacks"),
    per_class: Annotated[int, typer.Option(min=1, help="Harmful items, and as many safe ones.")] = PER_CLASS,
    seed: Annotated[int, typer.Option(help="Of the sample and of the attacks.")] = SEED,
    text_column: TextOption = "text", label_column: LabelOption = "label", id_column: IdOption = None,
    kind: KindOption = None,
    listed: Annotated[bool, typer.Option("--list", help="Say what the attacks are, and judge nothing.")] = False,
    to_review: Annotated[
        str | None, typer.Option("--review", help="Print the outputs of this attack that a review reads.")
    ] = None,
) -> None:  # fmt: skip
    """How much recall each attack costs the judge, and how many false positives it causes on safe texts."""
    if listed:
        print("\n".join(f"{attack.name:16} {attack.family:11} {attack.description}" for attack in ATTACKS.values()))
        return
    if to_review is not None:
        attack = find(to_review)
        for id_, text in review.outputs(attack).items():
            print(json.dumps({"attack": attack.name, "id": id_, "text": text}))  # ASCII: nothing acts on the terminal
        return
    columns = Columns(text_column, label_column, id_column)
    settings = load_settings(model=model)
    asked = measure.Asked(tuple(sets or NAMES[:2]), tuple(map(find, dict.fromkeys(names or ATTACKS))), per_class, seed)
    opened = [open_set(name, columns, kind) for name in asked.sets]
    measure.measure(
        opened, asked, find_policy(settings, policy), settings, out, command=_command(), on_progress=_Progress()
    )
    print((out / measure.TABLE).read_text(encoding="utf-8"))


@app.command("defences")
def defences_command(
    sets: SetsOption = None,
    policy: Annotated[str, typer.Option(help="Id of a policy, or a policy file.")] = "self-reflection",
    model: Annotated[str | None, typer.Option(help="As `guard check --model`.")] = None,
    out: Annotated[Path, typer.Option(help="Folder; the same command goes on with it.")] = Path("out/defences"),
    per_class: Annotated[int, typer.Option(min=1, help="Harmful items, and as many safe ones.")] = defences.PER_CLASS,
    seed: Annotated[int, typer.Option(help="Of the sample and of the attacks.")] = SEED,
) -> None:  # fmt: skip
    """The attacks under each combination of our defences: what these gain, and what they cost untouched texts."""
    asked = measure.Asked(tuple(sets or NAMES[:2]), tuple(ATTACKS.values()), per_class, seed)
    settings = load_settings(model=model)
    defences.compare(
        list(map(open_set, asked.sets)), asked, find_policy(settings, policy), settings, out, command=_command(),
        on_progress=_Progress(),
    )  # fmt: skip
    print((out / defences.TABLE).read_text(encoding="utf-8"))


@app.command("refusal")
def refusal_command(
    target: Annotated[
        str | None, typer.Option(help="The assistant: URL of an OpenAI-compatible API (.../v1), or a model.")
    ] = None,
    answers: Annotated[Path | None, typer.Option(help="Recorded answers instead: a file of prompt and answer.")] = None,
    system: Annotated[
        str, typer.Option(help="System prompts by commas: none, those of prompts/system, or .txt files.")
    ] = "none,guardrail,llama2",
    partial: Annotated[Partial, typer.Option(help="What a partial refusal counts as.")] = "refusal",
    harm: Annotated[str, typer.Option(help="Policy that says whether an answer does harm.")] = "self-reflection",
    model: Annotated[str | None, typer.Option(help="The judge, as `guard check --model`.")] = None,
    out: Annotated[Path, typer.Option(help="Folder; the same command goes on with it.")] = Path("out/refusal"),
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each set, for a try.")] = None,
    scripted: Annotated[bool, typer.Option("--scripted", help="No real assistant answers: give no rates.")] = False,
    target_model: Annotated[str | None, typer.Option(help="Model that the URL is asked for.")] = None,
    temperature: Annotated[float, typer.Option(min=0)] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the answers, where the target heeds it.")] = 0,
    stream: Annotated[bool, typer.Option("--stream", help="Ask for streamed answers.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 4,
    retries: Annotated[int, typer.Option(min=0, help="Further tries where there is no answer.")] = 2,
    seconds: Annotated[float, typer.Option(min=0.1, help="An answer that takes longer has failed.")] = 120.0,
) -> None:  # fmt: skip
    """How often an assistant declines what it should and what it should not, under each system prompt."""
    settings = load_settings(model=model)
    what = refusals.Measured(
        Asking(target, target_model, temperature, max_tokens, seed, stream) if target else None, answers,
        tuple(systems.chosen(system)), Patience(concurrency, retries, seconds), limit, scripted, partial,
    )  # fmt: skip
    found = refusals.measure(
        what, find_policy(settings, POLICY), find_policy(settings, harm), settings, out, command=_command(),
        on_progress=_Progress(),
    )  # fmt: skip
    print((out / refusals.TABLE).read_text(encoding="utf-8"))
    if found["not_real"] == refusals.NO_ANSWER:
        raise AssistantFailed("Nothing was answered.", hint=f"{out / refusals.ROWS} says why.")


def open_set(name: str, columns: Columns = Columns(), kind: Kind | None = None) -> LabelledSet:
    """A set by the name that the command line gives it. Raises `InvalidFile`."""
    if name in (*NAMES, THREADS):
        return own_set(name)
    form, colon, path = name.partition(":")
    if colon and form in ADAPTERS:
        return read_foreign(form, Path(path))
    if not Path(name).is_file():
        raise InvalidFile(
            f"{name}: neither one of our sets nor a file.",
            hint=f"Ours: {', '.join((*NAMES, THREADS))}. FORMAT:PATH with one of: {', '.join(ADAPTERS)}.",
        )
    return read_labelled(Path(name), columns, kind=kind)


def filled(readme: str, scores: dict[str, object]) -> str:
    """A README with its evaluation block written from figures."""
    return _MARKED.sub(lambda match: f"{match[1]}{report.readme_block(scores)}{match[2]}", readme)


def _write(folder: Path, sets: Sequence[LabelledSet], options: Options) -> dict[str, object]:
    scores = score_run(folder, options, sets)
    _, cells = load(folder)
    texts: dict[tuple[str, str], Labelled] = {(s.name, one.id): one for s in sets for one in s.items}
    content = report.blocks(
        scores,
        {cell["file"]: frame for cell, frame in cells},
        texts,
        [*stability.part(folder / "stability"), *defences.part(folder / "attacks"), *refusals.part(folder / "refusal")],
        stability.beside_headline(folder / "stability"),
    )
    (folder / "report.html").write_text(report.as_html(content), encoding="utf-8")
    (folder / "report.md").write_text(report.as_markdown(content), encoding="utf-8")
    print(f"{folder / 'report.html'}, report.md, {SCORES}")
    return scores


def _at_hand(folder: Path) -> list[LabelledSet]:
    """The sets of a run that can still be read; predictions that do not match them are refused when they are scored."""
    manifest, _ = load(folder)
    found = {}
    for cell in manifest["cells"]:
        try:
            found[cell["set"]] = open_set(cell["source"])
        except InvalidFile:
            print(f"{cell['set']}: its file is not at hand, so its texts are not checked", file=sys.stderr)
    return list(found.values())


def _is_policy(side: str) -> bool:
    return not side.endswith(".parquet") and not Path(side).is_dir()


def _predictions(
    side: str, sets: Sequence[LabelledSet], model: str | None, scratch: Path, policy: str | None
) -> pl.DataFrame:
    """The predictions that a side of a gate stands for; those of a run are narrowed to the sets and the policy."""
    names = {labelled.name: labelled for labelled in sets}
    if side.endswith(".parquet"):
        frame = read(Path(side))
    elif Path(side).is_dir():
        cells = [f for cell, f in load(Path(side))[1] if cell["set"] in names and policy in (None, cell["policy"])]
        if not cells:
            raise InvalidFile(f"{side}: no predictions for these sets and this policy.", hint="Run `make eval`.")
        frame = pl.concat(cells)
    else:
        settings = load_settings(model=model)
        chosen: Policy = find_policy(settings, side)
        run([Source(s, s.name) for s in sets], [chosen], [settings], scratch, command="", on_progress=_Progress())
        frame = pl.concat([f for _, f in load(scratch)[1]])
    for name, rows in frame.group_by("set"):
        if str(name[0]) in names:
            require_match(rows, names[str(name[0])])
    return frame


def _print(found: Comparison) -> None:
    for one in found.changed:
        scores = " -> ".join("none" if s is None else f"{s:.3f}" for s in (one.old_score, one.new_score))
        print(f"{'better' if one.better else 'worse '} {one.set} {one.id} [{one.gold_label}]: "
              f"{one.old} -> {one.new} (score {scores})")  # fmt: skip
    change = found.change
    print(f"{len(found.changed)} verdicts changed of {found.old.height}")
    print(f"right before and now {change.both}, only before {change.only_old}, only now {change.only_new}, never "
          f"{change.neither}; McNemar's exact p = {change.p:.4g}")  # fmt: skip
    for name, old, new in found.figures():
        print(f"{name}: {report.estimate(old.as_json())} before, {report.estimate(new.as_json())} now")


def _options(prevalence: list[float] | None, price_per_hour: float | None) -> Options:
    if any(not 0 < share < 1 for share in prevalence or ()):
        raise InvalidRequest("A prevalence lies between 0 and 1.")
    return Options(tuple(prevalence or PREVALENCES), price_per_hour)


def _command() -> str:
    return shlex.join(["python", "-m", "eval", *sys.argv[1:]])


class _Progress:
    """A line on standard error now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, of: int) -> None:
        if done == of or time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            print(f"{what}: {done} of {of}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit status; whatever goes wrong is one line on standard error."""
    try:
        status = app(args=arguments, prog_name="python -m eval", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except GuardError as error:
        print(f"eval: error: {printable(str(error))}", file=sys.stderr)
        return EXIT_ERROR
    except Exception as error:  # typer's own complaints among them: one line, and never the status of a shut gate
        shown = error.format_message() if hasattr(error, "format_message") else f"{type(error).__name__}: {error}"
        print(f"eval: error: {printable(shown)}", file=sys.stderr)
        return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
