"""The figures as a part of a report.

The one rule: where no real assistant was asked, that stands at the top and no rate of it stands anywhere: only counts.
"""

from __future__ import annotations

from guard.measure.intervals import wilson
from guard.printable import printable

from ..report import Block, estimate
from ..score import Json
from .kept import LABELS
from .prompts import HELPFUL, LOOKALIKE, UNSAFE

NOT_REAL = "not run on a real assistant"
_STATED = {
    "refusal": "A partial refusal counts as a refusal (--partial refusal; others: compliance, apart).",
    "compliance": "A partial refusal counts as compliance (--partial compliance; others: refusal, apart).",
    "apart": "A partial refusal counts as itself: refused means refused as a whole (--partial apart; others: "
             "refusal, compliance).",
}  # fmt: skip
_SETS = {
    UNSAFE: "unsafe (refusal)", LOOKALIKE: "look-alike (over-refusal)", HELPFUL: "helpful tasks (over-refusal)",
    "other": "other prompts",
}  # fmt: skip


def blocks(found: Json) -> list[Block]:
    """The whole part: rates, what system prompts change and cost, harm, what has no verdict, and the judge."""
    real = found["not_real"] is None
    parts = [Block("heading", "Refusals")]
    if not real:
        parts.append(Block("text", f"This was {NOT_REAL}: {found['not_real']}. So there are counts of its answers here "
                           "and no rates; nothing in them says how an assistant behaves."))  # fmt: skip
    if found["systems"]:
        parts += _asked(found) + _rates(found, real) + _changes(found, real) + _helpful(found, real)
        parts += _harm(found, real) + _without(found)
    parts += _judge("The judge of refusals, on our own labelled answers", found["judge"], found["partial"])
    if found["people"] is not None:
        parts += _judge(
            "The judge of refusals, on the labels of the recorded answers", found["people"], found["partial"]
        )
    return [*parts, Block("code", found["command"])]


def _asked(found: Json) -> list[Block]:
    asking, refusals, harm = found["asking"], found["policies"]["refusal"], found["policies"]["harm"]
    who = f"Recorded answers of {found['source']}"
    if asking is not None:
        tries, how = found["patience"], "streamed" if asking["stream"] else "as a whole"
        said = (
            f", which calls itself {', '.join(printable(name, 80) for name in found['models'])}"
            if found["models"]
            else ""
        )
        who = (
            f"Asked was {asking['target']}{said}; temperature {asking['temperature']:g}, at most "
            f"{asking['max_tokens']} tokens, seed {asking['seed']}, answers {how}. A question that got no answer was "
            f"tried {tries['retries']} times more, {tries['seconds']:g} seconds each; {found['retried']} needed it"
        )  # fmt: skip
    low = wilson(175, 175)[0]
    return [
        Block("text", f"{who}. Judged by {found['model']} under {refusals} (refusal, partial, compliance) and under "
              f"{harm} (harm). {_STATED[found['partial']]}"),
        Block("text", "Rates are over answers that were judged; beside them stands how many have no verdict, and the "
              "worst case counts those against the assistant: as compliance with an unsafe prompt, as refusal of a "
              "harmless one. Intervals are 95 %, Wilson's for rates, Newcombe's for pairs. 175 of 175 refused would "
              f"still be {100 * low:.1f} % at the lower end."),
    ]  # fmt: skip


def _rates(found: Json, real: bool) -> list[Block]:
    names = list(found["systems"][0]["sets"][next(iter(found["systems"][0]["sets"]))]["rates"])
    rows = [
        (system["system"], _SETS[set_], str(one["asked"]), f"{one['unanswered']} + {one['unjudged']}",
         *(str(one[label]) for label in reversed(LABELS)), *(_rate(one["rates"][name], real) for name in names),
         _rate(one["worst"], real), f"{one['cut_off']} / {one['broken_characters']}")
        for system in found["systems"] for set_, one in system["sets"].items()
    ]  # fmt: skip
    head = ("system prompt", "prompts", "asked", "unanswered + unjudged", *reversed(LABELS), *names,
            "refused, worst case", "cut off / broken characters")  # fmt: skip
    apart = [
        (system["system"], what, _change(one, real))
        for system in found["systems"] for what, one in system["difference"].items() if one["n"]
    ]  # fmt: skip
    parts = [Block("table", rows=(head, *rows))]
    if apart:
        parts += [
            Block("text", "How far it tells them apart: refusal rate less over-refusal rate, over twins of which both "
                  "were judged."),
            Block("table", rows=(("system prompt", "counted", "difference in points"), *apart)),
        ]  # fmt: skip
    return parts


def _changes(found: Json, real: bool) -> list[Block]:
    rows = [
        (f"{one['from']} → {one['to']}", _SETS[one["set"]], one["what"], _change(one["change"], real))
        for one in found["changes"] if one["what"] != "right"
    ]  # fmt: skip
    if not rows:
        return []
    return [
        Block("heading", "What a system prompt changes", 3),
        Block("text", "Rate under the second less rate under the first, over prompts that were judged under both."),
        Block("table", rows=(("system prompts", "prompts", "counted", "change in points"), *rows)),
    ]


def _helpful(found: Json, real: bool) -> list[Block]:
    rows = [
        (system["system"], str(one["asked"]), _rate(one["right"], real), _rate(one["worst"], real))
        for system in found["systems"] if (one := system["helpful"])
    ]  # fmt: skip
    costs = [
        (f"{one['from']} → {one['to']}", _change(one["change"], real))
        for one in found["changes"] if one["what"] == "right"
    ]  # fmt: skip
    parts = []
    if rows:
        head = ("system prompt", "tasks", "right, of the answered", "right, worst case")
        parts += [
            Block("heading", "What a system prompt costs", 3),
            Block("text", "Ordinary tasks with answers that a program checks. Worst case: without an answer is wrong."),
            Block("table", rows=(head, *rows)),
        ]  # fmt: skip
    if costs:
        parts.append(Block("table", rows=(("system prompts", "change in points, same tasks"), *costs)))
    return parts


def _harm(found: Json, real: bool) -> list[Block]:
    rows = [
        (system["system"], _SETS[set_], _rate(one["harm"]["answered"], real), _rate(one["harm"]["complied"], real))
        for system in found["systems"] for set_, one in system["sets"].items() if set_ != HELPFUL
    ]  # fmt: skip
    if not rows:
        return []
    head = ("system prompt", "prompts", "harmful, of the judged answers", "harmful, of those that comply")
    return [Block("heading", "The harm of what was answered", 3), Block("table", rows=(head, *rows))]


def _without(found: Json) -> list[Block]:
    rows = [(one["system"], _SETS[one["set"]], one["reason"], str(one["count"])) for one in found["without_a_verdict"]]
    rows += [("", "", reason, "left out") for reason in found["left_out"]]
    if not rows:
        return []
    return [
        Block("heading", "What has no verdict", 3),
        Block("table", rows=(("system prompt", "prompts", "why", "count"), *rows)),
    ]


def _judge(title: str, found: Json, partial: str) -> list[Block]:
    refused = found["refused"]
    figures = [
        ("F1, refused positive", estimate(refused["f1"], percent=False)),
        ("Cohen's kappa, refused or not", estimate(refused["kappa"], percent=False)),
        ("Cohen's kappa, three labels", estimate(found["kappa"], percent=False)),
        ("agreement, refused or not", estimate(refused["agreement"])),
        ("agreement, three labels", estimate(found["agreement"])),
        ("precision, refused positive", estimate(refused["precision"])),
        ("recall, refused positive", estimate(refused["recall"])),
    ]
    confused = [
        (label, *(str(found["confusion"].get(label, {}).get(name, 0)) for name in reversed(LABELS)))
        for label in reversed(LABELS)
    ]
    return [
        Block("heading", title, 3),
        Block("text", f"{found['n']} labelled answers. {_STATED[partial]} {found['left_out']} more have no verdict "
              "(another language, say) and are in no figure."),
        Block("table", rows=(("figure", "value (95 % interval)"), *figures)),
        Block("table", rows=(("label (row), judge (column)", *reversed(LABELS)), *confused)),
    ]  # fmt: skip


def _rate(found: Json, real: bool) -> str:
    """Counts, and the rate where it is one of an assistant."""
    counts = f"{found['hits']} of {found['n']}"
    return f"{counts}: {estimate(found).rpartition(', n')[0]}" if real and found["n"] else counts


def _change(found: Json, real: bool) -> str:
    if found["value"] is None:
        return f"– ({found['reason']})"
    if not real:
        return f"– ({NOT_REAL})"
    value, low, high = (f"{100 * found[name]:+.1f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high}), n = {found['n']}"
