"""Stage 7: Platt's scale and shift per policy and kind of item, on held-back rows, through the served pipeline."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from guard.calibration import Calibration, Platt
from guard.engine.engine import TorchEngine
from guard.item import Kind
from guard.measure.fitting import log_odds, platt
from guard.measure.intervals import Floats
from guard.moderator import Moderator, Task
from guard.policy import Policy
from guard.tokenizer import load_tokenizer
from training.config import Config, trained_policies
from training.sources import ORDINARY, Example, admissible
from training.tune import JUDGED_AS

# The share of unacceptable items that the calibrated probabilities assume, so that 0.5 keeps the promise below.
# Declining is as common as complying where somebody asks about it.
HARMFUL_SHARE = {Kind.PROMPT: 0.5, Kind.ANSWER: 0.3, Kind.COMMENT: 0.2}
REFUSAL_SHARE = 0.5
# The promise: at the shipped threshold at most so much of what ordinary users write is stopped.
MOST_FALSE_POSITIVES = 0.05
ORDINARY_ROWS = 300  # per source
ROWS = 400  # per policy, kind and class


def served(config: Config, calibration: Calibration) -> Moderator:
    """The exported checkpoint behind the pipeline that is served."""
    engine = TorchEngine.load(config.out)
    return Moderator(engine, load_tokenizer(config.out), calibration=calibration)


def calibrate(config: Config, held_back: Sequence[Example]) -> None:
    """Fit and write `calibration.json`."""
    moderator = served(config, Calibration())
    fits = []
    for policy in trained_policies():
        for kind in policy.kinds:
            share = REFUSAL_SHARE if policy.id == "refusal" else HARMFUL_SHARE[kind]
            rows = balanced(held_back, policy, kind, config.seed)
            scores = scores_of(moderator, [example for example, _ in rows], policy, kind)
            harmful = np.array([harm for _, harm in rows])
            try:
                scale, shift = platt(scores, harmful, share)
            except ValueError as cause:
                raise RuntimeError(f"{policy.id}/{kind}: {cause}") from cause
            fit = Platt(scale, shift)
            calibrated = np.array([fit(x) for x in log_odds(scores)])
            stopped = ordinary_stopped(moderator, held_back, policy, kind, fit, config.seed)
            line = {
                "policy": policy.id,
                "kind": kind.value,
                "scale": round(scale, 4),
                "shift": round(shift, 4),
                "rows": len(rows),
                **stopped,
            }
            fits.append(line)
            caught, false = (calibrated[harmful] >= 0.5).mean(), (calibrated[~harmful] >= 0.5).mean()
            print(json.dumps({**line, "recall": round(caught, 3), "false_positives": round(false, 3)}), flush=True)
    known = sorted({category.meaning for policy in trained_policies() for category in policy.categories})
    text = json.dumps(
        {"harmful_share": {**HARMFUL_SHARE, "refusal": REFUSAL_SHARE}, "fits": fits, "known": known}, indent=2
    )
    (config.out / "calibration.json").write_text(text + "\n", encoding="utf-8")


def scores_of(moderator: Moderator, examples: Sequence[Example], policy: Policy, kind: Kind) -> Floats:
    """Uncalibrated scores [N] of examples judged as `kind`."""
    tasks = [Task(example.item.model_copy(update={"kind": kind}), policy) for example in examples]
    return np.array([verdict.score for verdict in moderator.judge_many(tasks)])


def ordinary_stopped(
    moderator: Moderator, examples: Sequence[Example], policy: Policy, kind: Kind, fit: Platt, seed: int
) -> dict[str, float]:
    """The share of ordinary held-back items that the threshold stops. Raises `RuntimeError` over the promise."""
    draw = random.Random(seed)
    rows: list[Example] = []
    for source in ORDINARY.get(kind, ()):
        found = [e for e in examples if e.source == source and not e.harmful]
        rows += draw.sample(found, min(ORDINARY_ROWS, len(found)))
    if not rows:
        return {}
    odds = log_odds(scores_of(moderator, rows, policy, kind))
    stopped = float(np.mean([fit(x) >= policy.threshold for x in odds]))
    if stopped > MOST_FALSE_POSITIVES:
        raise RuntimeError(f"{policy.id}/{kind}: {stopped:.3f} of ordinary items are stopped")
    return {"ordinary_stopped": round(stopped, 4), "ordinary_rows": len(rows)}


def balanced(examples: Sequence[Example], policy: Policy, kind: Kind, seed: int) -> list[tuple[Example, bool]]:
    """Up to ROWS harmful and ROWS acceptable examples under `policy` for `kind`, spread over the sources."""
    draw = random.Random(f"{seed} {policy.id} {kind}")
    by_source: dict[tuple[bool, str], list[Example]] = defaultdict(list)
    for example in examples:
        right = admissible(example, policy, narrowed=False)
        if right is None or (0 in right and len(right) > 1) or kind not in dict(JUDGED_AS[example.item.kind]):
            continue
        by_source[right != [0], example.source].append(example)
    rows: list[tuple[Example, bool]] = []
    for harmful in (True, False):
        sources = [draw.sample(found, len(found)) for (harm, _), found in by_source.items() if harm is harmful]
        taken: list[Example] = []
        while len(taken) < ROWS and any(sources):
            taken += [source.pop() for source in sources if source]
        rows += [(example, harmful) for example in taken[:ROWS]]
    return rows
