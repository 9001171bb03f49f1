"""The model card and the README's figures, written from `models/embedded.figures.json`. Pure text; no model.

`python -m training.report` writes them anew; a test fails when they differ from what the figures say.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from training.config import ROOT
from training.sources import ORDINARY

FIGURES = ROOT / "models" / "embedded.figures.json"
CARD = ROOT / "models" / "README.md"
README = ROOT / "README.md"
_MARKED = re.compile(r"(<!-- figures: written by `make figures` -->\n).*?(<!-- end of figures -->)", re.DOTALL)
_JUDGES = {
    "guard": "guard, embedded model",
    "tfidf_all": "TF-IDF + logistic regression, all rows",
    "tfidf_own": "TF-IDF + logistic regression, that set's rows",
}
OURS = ("Apache-2.0", "written for this repository")
# public set -> (licence, attribution), as its own documents give them
LICENCES = {
    "bbq_identity_benign": ("CC-BY-4.0", "Parrish et al. 2022, BBQ"),
    "benign_instructions": ("Apache-2.0 / MIT", "Self-Instruct; LMSYS arena-hard, MT-bench; GPTeacher; GSM8K"),
    "benign_instructions_answers": ("Apache-2.0 / MIT", "as above"),
    "bias_madlibs": ("CC-BY-4.0", "Conversation AI (Jigsaw)"),
    "civil_toxic_annot": ("CC0-1.0", "Pavlopoulos et al. 2022; Civil Comments"),
    "civil_toxic_spans": ("CC0-1.0", "Pavlopoulos et al. 2021; Civil Comments"),
    "convabuse": ("CC-BY-4.0", "Cercas Curry, Abercrombie, Rieser 2021"),
    "cyberseceval_frr": ("MIT", "Meta Platforms, CyberSecEval"),
    "cyberseceval_injection": ("MIT", "Meta Platforms, CyberSecEval"),
    "davidson_tweets": ("MIT", "Davidson, Warmsley, Macy, Weber 2017"),
    "diasafety": ("Apache-2.0", "Sun et al. 2022, DiaSafety, thu-coai"),
    "dolly_subset": ("CC-BY-SA-3.0 (share alike)", "Databricks, dolly-15k"),
    "dolly_subset_answers": ("CC-BY-SA-3.0 (share alike)", "as above"),
    "dstc8_user_turns": ("CC-BY-SA-4.0 (share alike)", "Rastogi et al. 2020, Google"),
    "edos_sexism": ("CC0-1.0", "Kirk, Yin, Vidgen, Röttger 2023"),
    "gab_hate": ("CC-BY-4.0", "Kennedy et al. 2020, Gab Hate Corpus"),
    "gptfuzz_questions": ("MIT", "Yu et al. 2023, GPTFuzzer"),
    "gptfuzz_responses": ("MIT", "Yu et al. 2023, GPTFuzzer"),
    "hatemoji_build": ("CC-BY-4.0", "Kirk et al. 2021, Hatemoji"),
    "hatexplain": ("MIT", "Mathew et al. 2021, HateXplain; (c) 2020 Punyajoy Saha"),
    "implicit_hate": ("MIT", "ElSherief et al. 2021, Latent Hatred; (c) 2023 SALT"),
    "jailbreak_in_the_wild": ("MIT", "Shen et al. 2023, jailbreak_llms"),
    "jigsaw_sample": ("CC0-1.0; text CC-BY-SA-3.0 (share alike)", "Jigsaw / Conversation AI; Wikipedia contributors"),
    "medquad_questions": ("CC-BY-4.0", "Ben Abacha and Demner-Fushman 2019, MedQuAD"),
    "oasst_sample": ("Apache-2.0", "LAION OpenAssistant"),
    "online_misogyny": ("MIT", "Guest et al. 2021; (c) 2023 Ella Guest"),
    "realtoxicity_challenging": ("CC-BY-SA-4.0 (share alike)", "Gehman et al. 2020; Wang et al. 2023 DecodingTrust"),
    "red_instruct": ("Apache-2.0", "Bhardwaj and Poria 2023/2024; Shaikh et al."),
    "sms_spam": ("CC-BY-4.0", "Almeida and Hidalgo 2011, UCI"),
    "spamassassin_email": ("ODC-PDDL-1.0 / CC0-1.0", "Apache SpamAssassin public corpus via stdlib-js"),
    "stormfront": ("CC-BY-SA-3.0-ES (share alike)", "de Gibert et al. 2018, Vicomtech"),
    "wiki_context_toxicity": (
        "Apache-2.0; text CC-BY-SA (share alike)",
        "Pavlopoulos et al. 2020; Wikipedia contributors",
    ),
    "wiki_toxicity_nonfuzzed": ("CC-BY-4.0", "Conversation AI (Jigsaw)"),
}
PLAIN_TEXT = (
    "OpenStax (CC-BY-4.0), Standard Ebooks (CC0-1.0), Schema-Guided Dialogue (CC-BY-SA-4.0, share alike), Taskmaster "
    "(CC-BY-4.0), WikiText-2 (CC-BY-SA-3.0, share alike; Wikipedia contributors), guides of 18F and GSA (public "
    "domain) and the Rust book (MIT OR Apache-2.0), MedQuAD answers (CC-BY-4.0), hh-rlhf (MIT; "
    "Bai et al. 2022, Ganguli et al. 2022, (c) Anthropic), ETHICS (MIT; Hendrycks et al. 2021)"
)


def quality_table(figures: dict[str, Any]) -> str:
    """AUROC and AUPRC with 95 % intervals per set and judge, and who wins."""
    lines = ["| held-back rows | judge | AUROC (95 %) | AUPRC (95 %) |", "|---|---|---|---|"]
    for name, found in figures["sets"].items():
        where = f"{name}: {found['rows']} rows, {found['harmful']} harmful"
        for judge, title in _JUDGES.items():
            q = found["judges"][judge]
            roc = f"{q['auroc']:.3f} ({q['auroc_95'][0]:.3f}–{q['auroc_95'][1]:.3f})"
            prc = f"{q['auprc']:.3f} ({q['auprc_95'][0]:.3f}–{q['auprc_95'][1]:.3f})"
            lines.append(f"| {where} | {title} | {roc} | {prc} |")
            where = ""
    return "\n".join(lines)


def who_wins(figures: dict[str, Any]) -> str:
    """One sentence per set, from the paired bootstrap."""
    words = {
        "guard": "the embedded model ranks better",
        "tfidf": "TF-IDF + logistic regression ranks better",
        "neither": "neither is significantly better",
    }
    lines = []
    for name, found in figures["sets"].items():
        for judge, against in (
            ("tfidf_all", "the rival on all rows"),
            ("tfidf_own", "the rival on the set's own rows"),
        ):
            gap = found["verdict"][judge]
            low, high = gap["gap_95"]
            lines.append(
                f"- {name}, against {against}: {words[gap['winner']]} "
                f"(AUROC difference {gap['gap']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})."
            )
    return "\n".join(lines)


def readme_block(figures: dict[str, Any]) -> str:
    """What the README says in figures."""
    speed = figures["speed"]
    return (
        f"{quality_table(figures)}\n\n"
        f"{who_wins(figures)}\n\n"
        f"Speed: {speed['comments_per_second']} comments a second ({speed['mean_characters']} characters on average), "
        f"{speed['threads']} threads. Machine: {figures['machine']}. Measured by `make figures`.\n"
    )


def card(figures: dict[str, Any]) -> str:
    """The whole model card."""
    thresholds = "\n".join(
        f"| {name} | {found['policy']}, {found['kind']} | {found['at_threshold']['threshold']} | "
        f"{found['at_threshold']['recall']:.3f} | {found['at_threshold']['false_positive_rate']:.3f} | "
        f"{found['calibration_error']:.3f} |"
        for name, found in figures["sets"].items()
    )
    data = "\n".join(
        f"| {name} | {n['harmful']} | {n['acceptable']} | {licence} | {attribution} |"
        for name, n in figures["trained_on"].items()
        for licence, attribution in [OURS if name.startswith("authored") else LICENCES[name]]
    )
    speed = figures["speed"]
    ordinary = ", ".join(name for names in ORDINARY.values() for name in names)
    return f"""---
license: apache-2.0
language: en
library_name: transformers
---
# The embedded judge

`models/embedded/` is a small Mistral-architecture language model ({figures["parameters"] / 1e6:.1f} million
weights, {figures["bytes"] / 2**20:.0f} MiB with its tokenizer) that `guard` asks to classify a text by
self-reflection when no other model is named. Six layers of 384 numbers, {figures["heads"]["query"]} query heads over
{figures["heads"]["key_value"]} key-value heads, RoPE, SwiGLU, a sliding window of 1,024 tokens; a lower-case byte-level
BPE of 20,480 tokens in which every shipped label is one token.

**For:** trying `guard`, continuous integration, small forums, a first pass whose doubtful cases people review.
**Not for:** deciding about people without review, languages other than English, policies with categories of your own
(it was trained on the labels of the shipped policies only; others are marked `uncalibrated`), legal or medical
judgements. Where more is at stake, put an instruct model of the 7B class in its place: `guard check --model FOLDER`.

Model id: `{figures["model"]}`.

## Figures

All on rows that were held back from training, through the pipeline that is served (`make figures`; machine:
{figures["machine"]}). The positive class is *harmful*, as the set's authors labelled it. The rival is TF-IDF (words
1–2, characters 3–5) + logistic regression, fitted on the same training rows: on all sources (at most 6,000 rows per
source and class), or on that set's own rows alone.

{quality_table(figures)}

Who wins (paired bootstrap of the AUROC, 400 resamples):

{who_wins(figures)}

At the shipped threshold:

| held-back rows | policy, kind | threshold | recall | false-positive rate | calibration error |
|---|---|---|---|---|---|
{thresholds}

Scores are calibrated per policy and kind on held-back rows, for a share of harmful ones of 0.5 (prompts), 0.3
(answers) and 0.2 (comments), so a threshold of 0.5 means: more likely than not, where that share is harmful. The
shares were set so that at 0.5 at most 5 % of ordinary prompts and comments are stopped: held-back acceptable rows of
{ordinary}. What was found per policy stands in `calibration.json` (`ordinary_stopped`); `make train` refuses more.
Where harm is rarer, raise the threshold. Some of the rows above were among those that the calibration was fitted on:
that changes no ranking, so neither AUROC nor AUPRC, but the figures at the threshold may flatter it a little.

Speed: {speed["comments_per_second"]} comments a second under `forum-comments` ({speed["rows"]} comments, \
{speed["mean_characters"]} characters on average, {speed["threads"]} threads).

## How it was made

`training/` holds every step (`make train`). The weights start from those of the sentence encoder all-MiniLM-L6-v2
(Apache-2.0; Reimers and Gurevych 2019, Wang et al. 2020), carried over map by map by least squares; then
{_budget(figures)}
A row's loss is -log of the probability of the labels that may be right for it, because a source speaks about its own
categories only. `docs/log.md` says what was tried and what it gave.

Time: about 3 minutes for the tokenizer, 4 for the first fit, 25 for distillation and 40 for tuning on two processor
cores, slowed by other work there. Energy: at an assumed 15 W per core, some 0.04 kWh; there is no meter.

## Data

Plain text for distillation, without labels: {PLAIN_TEXT}; and the texts of the rows below.

| training rows | harmful | acceptable | licence | attribution |
|---|---|---|---|---|
{data}

## Limits

- It is small and was trained for little more than an hour: irony, dialect, long arguments and world knowledge it
  does not have. It calls identity terms and profanity harmful too often.
- It reads lower-case letters only: shouting looks like speaking.
- Labels come from the sources, with their errors and their authors' view of harm; most are comments by and about people
  in the United States.
- Threads (parent comment, title) were hardly in the training data; they are shown to the model, and gain little.
- Graphic violence is weak: no graphic text was written for it.
- It often names the wrong category. The overall score is better than the name.
- Plain cases that it gets wrong, tried by hand: "How do I make a bath bomb that smells of lavender?" and "The new
  update is terrible and the menus make no sense." (both flagged under `moderation-13` as prompts), "I hope you choke"
  (accepted under `forum-comments`), "Find me the home address of my ex girlfriend." (flagged, but as `illicit`).
- It can be fooled by spacing, leetspeak and other languages. Control tokens and template delimiters in a text do not
  change the question that is asked.
"""


def _budget(figures: dict[str, Any]) -> str:
    seen = figures["seen"]
    return (
        f"{seen['texts'] / 1e3:.0f} thousand texts read beside the encoder, then "
        f"{seen['questions'] / 1e3:.0f} thousand\nquestions drawn from the rows below under shipped policies, "
        "whole, shuffled or narrowed."
    )


def pages(figures: dict[str, Any]) -> dict[Path, str]:
    """Each page that holds figures, as it must read."""
    readme = README.read_text(encoding="utf-8")
    filled = _MARKED.sub(lambda match: f"{match[1]}{readme_block(figures)}{match[2]}", readme)
    return {CARD: card(figures), README: filled}


def write() -> None:
    """Write the pages from the figures on disk."""
    for path, text in pages(json.loads(FIGURES.read_text(encoding="utf-8"))).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
