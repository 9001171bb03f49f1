"""The command line: `guard check`, `explain`, `scan`, `report`, `serve`, `plan`, `calibrate`, `policy` and `keys`.

The one rule: the exit status can be relied on. 0 means accepted (or done), 1 not accepted (or a policy test failed),
3 a scan with rows that have no verdict, and 2 everything that went wrong, whatever it was: no error looks like an
answer. Texts of others are shown escaped, because they may hold a terminal's control codes.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from guard import __version__
from guard.calibration import Calibration
from guard.errors import (
    EXIT_ACCEPTED,
    EXIT_ERROR,
    EXIT_FLAGGED,
    EXIT_ROW_ERRORS,
    STATUS,
    GuardError,
    InvalidItem,
    InvalidPolicy,
    InvalidRequest,
    InvalidSettings,
    UnknownPolicy,
)
from guard.item import Item, Kind
from guard.keys import Fail, KeyBook, Mode
from guard.loading import ceilings, folder_of, shape_of
from guard.moderator import Moderator
from guard.policy import Action, Policy, PolicyBook, PolicyTest, as_yaml, load_policy
from guard.printable import printable
from guard.prompt import load_template
from guard.resources import shipped
from guard.settings import Settings, load_settings
from guard.verdict import Decision, Verdict

if TYPE_CHECKING:
    from guard.explain import Explanation
    from guard.scan.estimate import Estimate
    from guard.scan.progress import Told
    from guard.scan.scan import Summary

_INTERRUPTED = 130
_PIPED_WIDTH = 160  # columns of a table that goes to a file or a program
_WORDS = 60  # characters of a text that a line shows
_SENTENCE = 240  # characters of a sentence that `explain` shows in its place
_PARTS = 10  # sentences in the table of `explain`
_SHOWN = 100  # flagged rows that --show prints
_COLOURS = {
    Decision.ALLOW: "green", Decision.FLAG: "yellow", Decision.REVIEW: "magenta", Decision.BLOCK: "red",
    Decision.ERROR: "bold red",
}  # fmt: skip


class Progress(StrEnum):
    """How a scan tells how far it is."""

    AUTO = "auto"
    JSON = "json"
    NONE = "none"


_HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    help="Judge texts by a policy, with a language model that reflects on them.",
    context_settings=_HELP,
    add_completion=False,
)
policy_app = typer.Typer(help="Look at policies, check their files and run their tests.", context_settings=_HELP)
app.add_typer(policy_app, name="policy")
keys_app = typer.Typer(help="Make, revoke and list the keys that the service asks for.", context_settings=_HELP)
app.add_typer(keys_app, name="keys")

ModelOption = Annotated[
    str | None, typer.Option(help="`embedded`, a folder with a checkpoint, or a Hugging Face model id.")
]
PolicyOption = Annotated[str | None, typer.Option(help="Id of a policy, or a policy file (.yaml).")]
PoliciesOption = Annotated[list[Path] | None, typer.Option(help="Folder of further policy files; may be repeated.")]
CategoriesOption = Annotated[str | None, typer.Option(help="Ask only about these categories: a,b.")]
KeysOption = Annotated[Path | None, typer.Option(help="File of keys. Default: the setting `keys`.")]
KindOption = Annotated[Kind | None, typer.Option(help="What the text is. Default: what the policy is about.")]


def main() -> None:
    """Entry point of the `guard` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where the caller has closed it
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit status; whatever goes wrong is one line on stderr."""
    try:
        status = app(args=arguments, prog_name="guard", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else EXIT_ACCEPTED
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as exit_:  # typer's own answer to a reader that left is status 1, which would say "flagged"
        return EXIT_ACCEPTED if exit_.code in (None, 0) else _reader_left()
    except BaseException as error:  # polars' panics are no Exception
        with suppress(OSError):  # nobody may be there to read it; the status stands
            if os.environ.get("GUARD_DEBUG") == "1":
                print("\n".join(map(printable, traceback.format_exc().splitlines())), file=sys.stderr)
            print(f"guard: error: {printable(_explained(error))}", file=sys.stderr)
        return exit_status(error) if isinstance(error, GuardError) else EXIT_ERROR


def exit_status(error: GuardError) -> int:
    """The row of `errors.STATUS` that belongs to an error."""
    return STATUS.get(type(error), (0, EXIT_ERROR))[1]


@app.callback(invoke_without_command=True)
def _guard(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"guard {__version__}")
        raise typer.Exit(EXIT_ACCEPTED)
    _help_unless_command(context)


@app.command()
def check(
    text: Annotated[str | None, typer.Argument(help="The text; `-` or nothing reads standard input.")] = None,
    answer: Annotated[str | None, typer.Option(help="Judge this answer of an assistant to the prompt TEXT.")] = None,
    parent: Annotated[str | None, typer.Option(help="The comment that TEXT replies to.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the thread in which TEXT stands.")] = None,
    kind: KindOption = None,
    policy: PolicyOption = None,
    categories: CategoriesOption = None,
    model: ModelOption = None,
    policies: PoliciesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as one line of JSON.")] = False,
) -> None:
    """Judge one text. Exit status: 0 accepted, 1 not accepted, 2 error."""
    settings = load_settings(model=model, policies=policies or None)
    chosen = find_policy(settings, policy)
    item = make_item(_given_or_piped(text), chosen, answer=answer, parent=parent, title=title, kind=kind)
    verdict = Moderator.load(settings).judge(item, policy=chosen, categories=_names(categories))
    if as_json:
        print(json.dumps(verdict.model_dump(mode="json")))  # pure ASCII: safe to show, whatever the text was
    else:
        _console().print(_describe(verdict))
    if verdict.error:
        raise typer.Exit(EXIT_ERROR)
    raise typer.Exit(EXIT_ACCEPTED if verdict.accepted else EXIT_FLAGGED)


@app.command()
def explain(
    text: Annotated[str | None, typer.Argument(help="The text; `-` or nothing reads standard input.")] = None,
    answer: Annotated[str | None, typer.Option(help="Explain this answer of an assistant to the prompt TEXT.")] = None,
    parent: Annotated[str | None, typer.Option(help="The comment that TEXT replies to.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the thread in which TEXT stands.")] = None,
    kind: KindOption = None,
    policy: PolicyOption = None,
    categories: CategoriesOption = None,
    model: ModelOption = None,
    policies: PoliciesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the explanation as one line of JSON.")] = False,
) -> None:
    """Judge one text, and say which sentences the verdict rests on. Exit status: as of `guard check`."""
    from guard.explain import explain as explained

    settings = load_settings(model=model, policies=policies or None)
    chosen = find_policy(settings, policy)
    item = make_item(_given_or_piped(text), chosen, answer=answer, parent=parent, title=title, kind=kind)
    moderator = Moderator.load(settings)
    found = explained(moderator, moderator.task(item, policy=chosen, categories=_names(categories)))
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        _print_explanation(found, item.text)
    raise typer.Exit(EXIT_ACCEPTED if found.verdict.accepted else EXIT_FLAGGED)


@app.command()
def scan(
    source: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Files, folders, patterns or URLs; `-` is standard input.")
    ],
    out: Annotated[
        str | None,
        typer.Option(help="Where the verdicts go: .jsonl, .csv (.gz, .zst) or .parquet; `-` is standard output."),
    ] = None,
    columns: Annotated[Path | None, typer.Option(help="YAML file that says which column is what.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column (or key) of the texts. Default: text.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids. Default: the row number, from 1.")] = None,
    format: Annotated[
        str | None, typer.Option(help="csv, tsv, jsonl, parquet or reddit. Default: what the name ends in.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of text files: utf-8, cp1252, utf-16, ...")] = "utf-8",
    query: Annotated[str | None, typer.Option(help="Of a database: the SELECT that gives the rows.")] = None,
    order: Annotated[
        str | None, typer.Option(help="Of a database: the column that orders the rows, each once.")
    ] = None,
    policy: PolicyOption = None,
    categories: CategoriesOption = None,
    kind: KindOption = None,
    model: ModelOption = None,
    policies: PoliciesOption = None,
    text: Annotated[bool, typer.Option("--text/--no-text", help="Repeat the texts beside the verdicts.")] = True,
    ledger: Annotated[str | None, typer.Option(help="Folder (or URL) of the ledger. Default: OUT.ledger.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what earlier runs found.")] = False,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Ask again about rows without verdict.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge a sample; say what the scan would take.")] = False,
    ray: Annotated[str | None, typer.Option(help="Judge on the Ray cluster there: auto, or HOST:PORT.")] = None,
    ray_workers: Annotated[
        int | None, typer.Option(help="Workers there at most. Default: as many as there is room for.", min=1)
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print what was flagged, highest scores first.")] = False,
    progress: Annotated[Progress, typer.Option(help="A bar or lines, JSON for programs, or none.")] = Progress.AUTO,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no summary.")] = False,
) -> None:
    """Judge every row of an input. Exit status: 0 done, 3 done but some rows have no verdict, 2 failed.

    Stopped at any moment, the same command goes on where it was. Rows without a verdict have the decision `error`, and
    stand with their texts in OUT.errors.jsonl.
    """
    from guard.scan.columns import Columns
    from guard.scan.job import Job
    from guard.scan.scan import scan as scan_job

    if out is None and not dry_run:
        raise InvalidRequest("No output is named.", hint="Name one: --out verdicts.jsonl")
    settings = load_settings(model=model, policies=policies or None)
    chosen = find_policy(settings, policy)
    kind = kind or chosen.default_kind
    job = Job(
        tuple(source),
        out or "-",
        chosen.narrowed(_names(categories), kind),
        kind,
        Columns.load(columns, format=format, text=text_column, id=id_column),
        format=format,
        encoding=encoding,
        query=query,
        order=order,
        keep_text=text,
        ledger=ledger,
    )
    job.check()
    if dry_run:
        from guard.scan.estimate import estimate

        return _print_estimate(estimate(Moderator.load(settings), job))
    if ray is not None:
        from guard.scan.cluster import scan_on

        judge_all = partial(scan_on, ray, settings, job, workers=ray_workers)
    else:
        judge_all = partial(scan_job, Moderator.load(settings), job)
    with _progress(progress, quiet) as on_progress:
        summary = judge_all(
            restart=restart, retry_errors=retry_errors, show=_SHOWN if show else 0, on_progress=on_progress
        )
    if not quiet and out != "-":
        _print_summary(summary, str(out))
    if show:
        _print_flagged(summary)
    raise typer.Exit(EXIT_ROW_ERRORS if summary.errors else EXIT_ACCEPTED)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(metavar="OUT", help="The output of `guard scan`.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report. Default: OUT.report.")] = None,
    watch: Annotated[list[str] | None, typer.Option(help="Names to look for: a,b; may be repeated.")] = None,
    sample: Annotated[int | None, typer.Option(help="Draw so many rows for review, into review.csv.", min=1)] = None,
    reviewed: Annotated[Path | None, typer.Option(help="Such a sample, with labels.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Report on a scan: report.html and report.md, on request a sample for review. Exit status: 0 done, 2 failed."""
    from guard.report.report import report as report_on

    made = report_on(source, out, watch=watch or (), sample=sample, reviewed=reviewed)
    if quiet:
        return
    lines = [
        f"{made.found.rows:,} rows, {made.found.judged:,} judged, {made.found.stopped:,} stopped",
        f"written: {made.page}, {made.summary}",
    ]
    if made.sample:
        lines.append(f"sample: {made.drawn:,} rows, {made.sample}")
    print("\n".join(map(printable, lines)))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    model: ModelOption = None,
    policy: Annotated[str | None, typer.Option(help="Id of the policy of requests that name none.")] = None,
    policies: PoliciesOption = None,
    assistant: Annotated[
        str | None, typer.Option(help="URL of the OpenAI-compatible API behind the chat, or a model of your own.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="File of keys; without one, no key is asked for.")] = None,
) -> None:
    """Serve the HTTP API until interrupted. Every other setting: GUARD_* variables or guard.yaml."""
    settings = load_settings(
        host=host, port=port, model=model, service_policy=policy, policies=policies or None, assistant=assistant,
        keys=keys,
    )  # fmt: skip
    from guard.service.server import serve as serve_http

    serve_http(settings)


@app.command()
def plan(
    model: Annotated[str | None, typer.Argument(help="`embedded`, a folder, or a Hugging Face model id.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="Sizes instead: layers=32,hidden=4096,heads=32,kv_heads=8,head_size=128,...")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="A table of known models instead.")] = False,
    memory: Annotated[float, typer.Option(help="GiB that weights and caches may take.", min=0.001)] = 24.0,
    tokens: Annotated[int, typer.Option(help="Tokens of a comment with its question.", min=1)] = 74,
    policy_tokens: Annotated[int, typer.Option(help="Tokens of the policy.", min=1)] = 430,
    gflops: Annotated[
        float | None, typer.Option(help="GFLOP/s of products. Default: measured here.", min=0.001)
    ] = None,
    gbytes: Annotated[float | None, typer.Option(help="GB/s from memory. Default: measured here.", min=0.001)] = None,
) -> None:
    """What a model needs and may do: bytes of weights and caches, what fits, comments and tokens a second."""
    from guard.engine import sizing

    if (model is not None) + (shape is not None) + compare != 1:
        raise InvalidRequest("Name a model, a --shape, or --compare.")
    if compare:
        print(sizing.comparison(sizing.KNOWN, 32768, 4096))
        return
    if shape is not None:
        name, sizes = "The shape", sizing.Shape.parse(shape)
    else:
        name, sizes = printable(str(model)), shape_of(str(model))
    machine = sizing.Machine((gflops or 0) * 1e9, (gbytes or 0) * 1e9)
    if not (gflops and gbytes):
        found = ceilings()
        machine = sizing.Machine(machine.operations or found.operations, machine.bytes or found.bytes)
    work = sizing.Work(tokens, policy_tokens)
    print(sizing.report(name, sizes, round(memory * 2**30), machine, work, sizing.REACHED))


@app.command()
def calibrate(
    labels: Annotated[Path, typer.Option(help="A .csv, .tsv, .jsonl or .parquet file of labelled texts.")],
    promise: Annotated[str, typer.Option(help="Such as precision>=0.95@prevalence=0.1, recall>=0.9 or fpr<=0.01.")],
    policy: PolicyOption = None,
    out: Annotated[Path | None, typer.Option(help="The new policy file. Default: ID.vN.yaml in this folder.")] = None,
    text_column: Annotated[str, typer.Option(help="Column (or key) of the texts.")] = "text",
    label_column: Annotated[
        str, typer.Option(help="Column of the labels: `acceptable`, a category, or yes or no to harm.")
    ] = "label",
    id_column: Annotated[str | None, typer.Option(help="Column of the ids. Default: the row number, from 1.")] = None,
    group_column: Annotated[str, typer.Option(help="Column that says which rows belong together, if any.")] = "group",
    kind: KindOption = None,
    seed: Annotated[int, typer.Option(help="Of the draw that halves the labels.")] = 0,
    model: ModelOption = None,
    policies: PoliciesOption = None,
) -> None:
    """Fit a policy's scores and thresholds to labelled texts, so that it keeps a promise. Exit status: 0 kept, 2 not.

    Half of the labels choose, the other half check. Columns `kind`, `prompt`, `parent` and `title` are read where the
    file has them.
    """
    from guard.calibrate import calibrate as fit
    from guard.calibrate import described
    from guard.labelled import Columns, conflicts, read_labelled
    from guard.measure.promise import Promise

    settings = load_settings(model=model, policies=policies or None)
    chosen = find_policy(settings, policy)
    try:
        promised = Promise.parse(promise)
    except ValueError as cause:
        raise InvalidRequest(f"{cause}.") from cause
    target = out or Path(f"{chosen.id}.v{chosen.version + 1}.yaml")
    if target.exists() or not target.parent.is_dir():
        raise InvalidRequest(f"{target}: there already, or in no folder.", hint="Name another file with --out.")
    columns = Columns(text_column, label_column, id_column, group=group_column)
    labelled = read_labelled(labels, columns, kind=kind or _only_kind(chosen))
    labelled.gold(chosen)
    for row, reason in labelled.skipped:
        print(f"row {row} left out: {printable(reason)}", file=sys.stderr)
    if twice := conflicts(labelled.items):
        print(f"{len(twice)} rows have a text that stands there with another label, too", file=sys.stderr)
    made = fit(Moderator.load(settings), chosen, labelled, promised, seed=seed, labels=labels)
    target.write_text(as_yaml(made), encoding="utf-8")
    load_policy(target)  # what was written is what will be read
    print("\n".join(map(printable, described(made))))
    print(f"{printable(str(target))}: {made.id} version {made.version}, hash {made.hash[:12]}")


def _only_kind(policy: Policy) -> Kind | None:
    return policy.kinds[0] if len(policy.kinds) == 1 else None


@policy_app.callback(invoke_without_command=True)
def _policy(context: typer.Context) -> None:
    _help_unless_command(context)


@policy_app.command("list")
def policy_list(policies: PoliciesOption = None) -> None:
    """List the policies that can be asked for."""
    table = Table("id", "version", "categories", "description", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for policy in PolicyBook(load_settings(policies=policies or None).policies):
        names = ", ".join(category.id for category in policy.categories)
        table.add_row(*map(_shown, (policy.id, str(policy.version), names, policy.description)))
    _console().print(table)


@policy_app.command("show")
def policy_show(
    name: Annotated[str, typer.Argument(metavar="ID", help="Id of a policy, or a policy file.")],
    prompt: Annotated[bool, typer.Option("--prompt", help="Print the words that the model reads instead.")] = False,
    kind: KindOption = None,
    policies: PoliciesOption = None,
) -> None:
    """Print a policy as YAML, with its hash."""
    policy = find_policy(load_settings(policies=policies or None), name)
    if prompt:
        kind = kind or policy.default_kind
        lines = load_template(kind).policy_text(policy.narrowed(None, kind)).splitlines()
        print("\n".join(map(printable, lines)))
        return
    print("\n".join(map(printable, [f"# hash: {policy.hash}", *as_yaml(policy).splitlines()])))


@policy_app.command("lint")
def policy_lint(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Default: all shipped ones.")] = None,
    model: ModelOption = None,
) -> None:
    """Check policy files; warn of what is allowed but odd, and of what the model was not trained for.

    Exit status: 0 all hold, 2 some do not.
    """
    status = EXIT_ACCEPTED
    settings = load_settings(model=model)
    known = Calibration.load(folder_of(settings.model)).known
    for path in files or sorted((shipped("prompts") / "policies").glob("*.yaml")):
        try:
            policy = load_policy(path)
        except InvalidPolicy as error:
            print(printable(str(error)))
            status = EXIT_ERROR
        else:
            print(f"{printable(str(path))}: ok")
            unmeasured = [
                f"category {id_}: uncalibrated, the model {settings.model} was not trained for it "
                "(its scores are a guess; `guard calibrate` on labelled items can measure it)"
                for id_ in policy.uncalibrated(known)
            ]
            for warning in [*oddities(policy), *unmeasured]:
                print(f"{printable(str(path))}: warning: {printable(warning)}")
    raise typer.Exit(status)


@policy_app.command("test")
def policy_test(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ID|FILE]...", help="Default: every policy that can be asked for.")
    ] = None,
    model: ModelOption = None,
    policies: PoliciesOption = None,
) -> None:
    """Judge the tests of policies. Exit status: 0 all passed, 1 some failed, 2 error."""
    settings = load_settings(model=model, policies=policies or None)
    chosen = [find_policy(settings, name) for name in names] if names else list(PolicyBook(settings.policies))
    moderator = Moderator.load(settings)
    statuses = [_run_tests(moderator, policy) for policy in chosen]
    raise typer.Exit(max(statuses, default=EXIT_ACCEPTED))


@keys_app.callback(invoke_without_command=True)
def _keys(context: typer.Context) -> None:
    _help_unless_command(context)


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="Whose key it is, for the list.")],
    policy: Annotated[str | None, typer.Option(help="The policy that it is for. Default: any.")] = None,
    categories: Annotated[str | None, typer.Option(help="The categories that it is for: a,b. Default: all.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Default: no limit.", min=1)] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="A token is 4 bytes of text. Default: no limit.", min=1)
    ] = None,
    mode: Annotated[Mode, typer.Option(help="`shadow`: answer as if nothing was found.")] = Mode.ENFORCE,
    fail: Annotated[Fail, typer.Option(help="`open`: what could not be judged passes.")] = Fail.CLOSED,
    keys: KeysOption = None,
    policies: PoliciesOption = None,
) -> None:
    """Make a key and print its secret, this once: nobody can ask for it again. A file that is not there is made."""
    settings = load_settings(keys=keys, policies=policies or None)
    wanted = _names(categories)
    if wanted is not None and not (wanted and policy):
        raise InvalidRequest("--categories names some of a --policy's.", hint="Name both.")
    if policy is not None:
        unknown = {*(wanted or ())} - {c.id for c in PolicyBook(settings.policies).get(policy).categories}
        if unknown:
            raise UnknownPolicy(f"Policy {policy!r} has no category {min(unknown)!r}.", hint="`guard policy list`")
    with _key_book(settings, must_exist=False) as book:
        key, secret = book.create(
            name, policy=policy, categories=wanted, requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute, mode=mode, fail=fail,
        )  # fmt: skip
    print(secret)
    print(f"key {key.id}: its secret is shown this once", file=sys.stderr)


@keys_app.command("revoke")
def keys_revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as the list has it.")],
    keys: KeysOption = None,
) -> None:
    """Let a key count no more, at once."""
    with _key_book(load_settings(keys=keys)) as book:
        book.revoke(id)


@keys_app.command("list")
def keys_list(
    keys: KeysOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each key as a line of JSON.")] = False,
) -> None:
    """List the keys, the oldest first, those revoked as well."""
    with _key_book(load_settings(keys=keys)) as book:
        found = book.list()
    if as_json:
        for key in found:
            print(json.dumps(key.model_dump(mode="json")))
        return
    table = Table(
        "id", "name", "policy", "categories", "requests/min", "tokens/min", "mode", "fail", "created", "revoked",
        box=None, pad_edge=False,
    )  # fmt: skip
    table.columns[0].no_wrap = True
    for key in found:
        limits = (str(limit or "-") for limit in (key.requests_per_minute, key.tokens_per_minute))
        times = (f"{time:%Y-%m-%d %H:%M}" if time else "-" for time in (key.created, key.revoked))
        names = ", ".join(key.categories or ("-",))
        table.add_row(*map(_shown, (key.id, key.name, key.policy or "-", names, *limits, key.mode, key.fail, *times)))
    _console().print(table)


def _key_book(settings: Settings, *, must_exist: bool = True) -> KeyBook:
    """The settings' file of keys. Raises `InvalidSettings`."""
    if settings.keys is None:
        raise InvalidSettings("There is no file of keys.", hint="Name one with --keys or GUARD_KEYS.")
    return KeyBook(settings.keys, must_exist=must_exist)


def find_policy(settings: Settings, name: str | None) -> Policy:
    """A policy by its id or file; without a name, that of the settings. Raises `UnknownPolicy`, `InvalidPolicy`."""
    name = name or settings.policy
    if name.endswith((".yaml", ".yml")) and Path(name).exists():
        return load_policy(Path(name))
    return PolicyBook(settings.policies).get(name)


def make_item(
    text: str, policy: Policy, *, answer: str | None = None, parent: str | None = None, title: str | None = None,
    kind: Kind | None = None,
) -> Item:  # fmt: skip
    """The item that a text and its context are; without a `kind` the context tells it. Raises `InvalidRequest`."""
    in_thread = parent is not None or title is not None
    if answer is not None and (in_thread or kind not in (None, Kind.ANSWER)):
        raise InvalidRequest("An answer has neither --parent nor --title nor another --kind.", hint="Leave them out.")
    if answer is not None:
        return Item(text=answer, kind=Kind.ANSWER, prompt=text)
    if in_thread and kind not in (None, Kind.COMMENT):
        raise InvalidRequest("Only a comment has --parent and --title.", hint="Leave them out, or say --kind comment.")
    kind = kind or (Kind.COMMENT if in_thread else policy.default_kind)
    return Item(text=text, kind=kind, parent=parent, title=title)


def oddities(policy: Policy) -> list[str]:
    """What a valid policy says that its author may not have meant."""
    found = [] if policy.tests else ["no tests"]
    if not 0.05 <= policy.threshold <= 0.95:
        found.append(f"threshold {policy.threshold}: nearly everything or nearly nothing will reach it")
    for category in policy.categories:
        if len(category.description.split()) < 3:
            found.append(f"category {category.id}: a description of fewer than 3 words tells the model little")
        if not 0.05 <= category.threshold <= 0.95:
            found.append(f"category {category.id}: nearly everything or nearly nothing will reach {category.threshold}")
        elif category.threshold > policy.threshold and category.action is not Action.ALLOW and not policy.evidence:
            found.append(
                f"category {category.id}: its threshold {category.threshold} is above the policy's "
                f"{policy.threshold}, which stops an item before"
            )
    if all(category.action is Action.ALLOW for category in policy.categories):
        found.append("every category's action is allow: the model stops nothing")
    return found


def _run_tests(moderator: Moderator, policy: Policy) -> int:
    passed, status = 0, EXIT_ACCEPTED
    for case in policy.tests:
        try:
            verdict = _judge_case(moderator, policy, case)
        except GuardError as error:
            result, found, status = "error", str(error), EXIT_ERROR
        else:
            result, found = ("pass" if _as_expected(verdict, case) else "FAIL"), _in_a_word(verdict)
            passed += result == "pass"
            status = max(status, EXIT_ERROR if verdict.error else EXIT_ACCEPTED if result == "pass" else EXIT_FLAGGED)
        expected = case.expect + (f" ({case.category})" if case.category else "")
        print(printable(f"{result:5} {policy.id}: expected {expected}, got {found}: {printable(case.text, _WORDS)}"))
    print(f"{policy.id}: {passed} of {len(policy.tests)} passed" if policy.tests else f"{policy.id}: no tests")
    return status


def _judge_case(moderator: Moderator, policy: Policy, case: PolicyTest) -> Verdict:
    kind = case.kind or (
        Kind.ANSWER if case.prompt else Kind.COMMENT if case.parent or case.title else policy.default_kind
    )
    item = Item(text=case.text, kind=kind, prompt=case.prompt, parent=case.parent, title=case.title)
    return moderator.judge(item, policy=policy)


def _as_expected(verdict: Verdict, case: PolicyTest) -> bool:
    decided = verdict.accepted if case.expect == "accepted" else verdict.decision.value == case.expect
    return decided and (case.category is None or case.category in verdict.categories)


def _in_a_word(verdict: Verdict) -> str:
    """`flag (insult) 0.903`"""
    if verdict.error:
        return f"error ({verdict.error.code}: {verdict.error.message})"
    named = f" ({', '.join(verdict.categories)})" if verdict.categories else ""
    return f"{verdict.decision.value}{named} {verdict.score or 0.0:.3f}"


def _describe(verdict: Verdict) -> Text:
    """A verdict for people."""
    lines = [Text(verdict.decision.value, style=_COLOURS[verdict.decision])]
    if verdict.error:
        message = " ".join((verdict.error.message, verdict.error.hint)).strip()
        return lines[0].append(printable(f"  {verdict.error.code}: {message}"), style="default")
    lines[0].append(f"  score {verdict.score or 0.0:.3f}", style="default")
    scores = (f"{name} {verdict.category_scores.get(name, 0.0):.3f}" for name in verdict.categories)
    lines.append(_shown(f"categories: {', '.join(scores) or 'none'}"))
    reasons = {
        "model": f"the model {verdict.model} read it under {verdict.policy} version {verdict.policy_version}",
        "truncated": "nothing was found, but not all of the text was read",
    }
    lines.append(_shown(f"reason: {reasons.get(verdict.reason, verdict.reason)}"))
    if verdict.passages > 1 and verdict.passage:
        beginning = printable(verdict.passage.excerpt, _WORDS)
        lines.append(_shown(f"passage {verdict.passage.index + 1} of {verdict.passages} decided: {beginning}"))
    if verdict.truncated and verdict.reason != "truncated":
        lines.append(Text("note: not all of the text or its context was read"))
    if verdict.unsupported_language:
        lines.append(Text("note: the text is not in a language that the model was made for"))
    return Text("\n").join(lines)


def _print_explanation(found: Explanation, text: str) -> None:
    """The verdict, the text with its deciding parts in brackets, and what each part adds."""
    lines = [_describe(found.verdict)]
    if found.ruling:
        rule, span = found.ruling.rule, found.ruling.span
        what = f"term {rule.term!r}" if rule.term is not None else f"pattern {rule.pattern!r}"
        where = f" at {span[0]}-{span[1]}: {printable(text[slice(*span)], _WORDS)}" if span else ""
        lines.append(_shown(f"the rule: {what}{where}"))
    if found.read < len(text):
        lines.append(
            _shown(f"only the first {found.read:,} of {len(text):,} characters were read: {_in_a_word(found.base)}")
        )
    if len(found.parts) < 2:
        what = "the text is a single sentence: nothing would be left without it" if found.parts else "that is blank"
        lines.append(Text(what))
        return _console().print(Text("\n").join(lines))
    number = {part.start: place for place, part in enumerate(found.ranked, start=1)}
    marked = [part for part in found.ranked if part.decides] or [part for part in found.ranked[:1] if part.change > 0]
    if not any(part.decides for part in marked):
        lines.append(Text("no sentence decides alone: without any one of them, the decision is the same"))
    sentences = Text("\n")
    for part in found.parts:
        words = printable(part.text, _SENTENCE)
        if part in marked:
            style = "bold red" if part.change > 0 else "bold green"
            sentences.append(f"[{number[part.start]}: {words}]", style=style).append(" ")
        else:
            sentences.append(f"{words} ")
    sentences.rstrip()
    sentences.append("\n")
    table = Table("", "adds", "without it", *found.base.categories, "at", "sentence", box=None, pad_edge=False)
    table.columns[-1].no_wrap = True
    for part in found.ranked[:_PARTS]:
        added = (f"{part.categories[name]:+.3f}" for name in found.base.categories)
        without = _in_a_word(part.without) if part.without else ""
        cells = (str(number[part.start]), f"{part.change:+.3f}", without, *added, f"{part.start}-{part.end}")
        table.add_row(*map(_shown, cells), _shown(printable(part.text, _WORDS)))
    console = _console()
    console.print(Text("\n").join(lines))
    console.print(sentences)
    console.print(table)
    if len(found.parts) > _PARTS:
        print(f"and {len(found.parts) - _PARTS:,} more that add or take less")


def _progress(progress: Progress, quiet: bool) -> AbstractContextManager[Told | None]:
    """How a scan tells how far it is."""
    from guard.scan.progress import Json, Lines

    if quiet or progress is Progress.NONE:
        return nullcontext()
    return Json() if progress is Progress.JSON else Lines()


def _print_summary(summary: Summary, out: str) -> None:
    from guard.scan.progress import per_second

    before = summary.rows - summary.judged
    lines = [
        f"{summary.judged:,} rows in {summary.seconds:.1f} s ({per_second(summary.rows_per_second)})"
        + (f", {before:,} judged before" if before else ""),
        f"decisions: {_counts(summary.decisions)}",
        f"categories: {_counts(summary.categories)}",
        f"written: {out}",
    ]
    if summary.errors:
        lines.append(f"without a verdict: {summary.errors:,} rows, see {summary.errors_file}")
    print("\n".join(map(printable, lines)))


def _print_estimate(found: Estimate) -> None:
    """What a scan would take; each guess with its 95 % interval."""
    from guard.scan.progress import clock

    table = Table("", "", "95 % interval", box=None, pad_edge=False)
    table.add_row("rows", f"{found.rows:,}", "counted")
    table.add_row("texts to judge, equal ones once", f"{found.distinct:,}", "counted")
    tokens, seconds = found.tokens, found.seconds
    table.add_row("tokens beside the policy's", f"{tokens.value:,.0f}", f"{tokens.low:,.0f} to {tokens.high:,.0f}")
    table.add_row("time (h:mm:ss)", clock(seconds.value), f"{clock(seconds.low)} to {clock(seconds.high)}")
    table.add_row("memory", f"{found.memory_bytes / 2**20:,.0f} MB", "measured on the sample")
    for decision, guess in found.decisions.items():
        table.add_row(f"rows to {decision}", f"{guess.value:,.0f}", f"{guess.low:,.0f} to {guess.high:,.0f}")
    _console().print(table)
    print(f"Judged for this: {found.sample:,} rows, drawn from all. Nothing was written.")


def _print_flagged(summary: Summary) -> None:
    table = Table("id", "decision", "categories", "score", "text", box=None, pad_edge=False)
    table.columns[-1].no_wrap = True
    for row in summary.flagged:
        words = printable(" ".join(row.text.split()), _WORDS)
        cells = (row.id, row.decision, ", ".join(row.categories), f"{row.score:.3f}", words)
        table.add_row(*map(_shown, cells))
    _console().print(table)
    stopped = sum(n for decision, n in summary.decisions.items() if decision not in (Decision.ALLOW, Decision.ERROR))
    if stopped > len(summary.flagged):
        print(f"and {stopped - len(summary.flagged):,} more with lower scores")


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def _shown(text: str) -> Text:
    return Text(printable(text))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"


def _names(joined: str | None) -> list[str] | None:
    return None if joined is None else [name.strip() for name in joined.split(",") if name.strip()]


def _given_or_piped(text: str | None) -> str:
    """The argument, else standard input less the newline with which a shell ends it."""
    if text is not None and text != "-":
        return text
    if sys.stdin is None or (text is None and sys.stdin.isatty()):
        raise InvalidItem("There is no text.", hint="Give it as an argument, or pipe it in.")
    return sys.stdin.buffer.read().decode("utf-8-sig", "replace").removesuffix("\n").removesuffix("\r")


def _help_unless_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(EXIT_ERROR)


def _explained(error: BaseException) -> str:
    """What an error says, in one line; of usage errors, where help is to be had."""
    if isinstance(error, GuardError):
        return str(error)
    usage: Any = error  # typer brings its own click or uses the installed one: told by its method, not its class
    if hasattr(usage, "format_message"):
        context = getattr(usage, "ctx", None)
        return f"{usage.format_message()} See `{context.command_path if context else 'guard'} --help`."
    return f"{type(error).__name__}: {error}"


def _reader_left() -> int:
    """Whoever read our output (`| head`) is gone: nothing more can be said, and Python must not try at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return EXIT_ERROR
