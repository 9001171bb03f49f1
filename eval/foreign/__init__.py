"""Public sets in the files that their authors publish, read from a path that the user gives; nothing is downloaded.

An adapter turns each row into an item that is `acceptable` or `unacceptable`, by the rule it states: the policies'
categories are not those of the sets, which become tags instead. A row that the rule leaves out is kept as `Skipped`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from guard.errors import InvalidFile
from guard.labelled import LabelledSet

from .answers import beavertails, guardbench, xstest_completions
from .comments import civil_comments, hatecheck, jigsaw_toxic
from .prompts import advbench, harmbench, harmful_prompts, jailbreakbench, openai_moderation, toxicchat, xstest


@dataclass(frozen=True)
class Adapter:
    """A public set: what it is, what may be done with it, and how its file becomes labelled items.

    `rule` says how its labels become ours and which rows are left out. `read` raises `InvalidFile`.
    """

    name: str
    title: str
    licence: str
    citation: str
    rule: str
    read: Callable[[Path], LabelledSet]


def read_foreign(name: str, path: Path) -> LabelledSet:
    """Read a file of the public set `name`. Raises `InvalidFile` for an unknown name, or where columns are missing."""
    adapter = ADAPTERS.get(name)
    if adapter is None:
        raise InvalidFile(f"There is no public set {name!r}.", hint=f"Known: {', '.join(ADAPTERS)}.")
    return adapter.read(path)


_REST = "Empty texts and broken rows are left out."
_XSTEST = (
    "Röttger, Kirk, Vidgen, Attanasio, Bianchi, Hovy: XSTest: A Test Suite for Identifying Exaggerated Safety "
    "Behaviours in Large Language Models. NAACL 2024, arXiv:2308.01263"
)

_ALL = f"Each is unacceptable. {_REST}"

_SETS = (
    Adapter(
        "openai-moderation",
        "OpenAI moderation evaluation set (samples-1680.jsonl.gz)",
        "MIT",
        "Markov, Zhang, Agarwal, Eloundou, Lee, Adler, Jiang, Weng: A Holistic Approach to Undesired Content "
        "Detection in the Real World. AAAI 2023, arXiv:2208.03274",
        "A prompt is unacceptable when any of its eight labels is 1, and acceptable when S, H, V, HR and SH are all "
        "0 (S3, H2 and V2 are parts of S, H and V). Where no label is 1 and one of the five is absent, nobody "
        f"knows, and it is left out, as is a label that is neither 0 nor 1. {_REST}",
        openai_moderation,
    ),
    Adapter(
        "toxicchat",
        "ToxicChat (lmsys/toxic-chat)",
        "CC BY-NC 4.0",
        "Lin, Wang, Tong, Wang, Guo, Wang, Shang: ToxicChat: Unveiling Hidden Challenges of Toxicity Detection in "
        "Real-World User-AI Conversation. Findings of EMNLP 2023, arXiv:2310.17389",
        "A user's prompt is unacceptable when `toxicity` is 1 and acceptable when it is 0; a jailbreak, and whether "
        f"people annotated it, are tags. Prompts without a label of 0 or 1 are left out. {_REST}",
        toxicchat,
    ),
    Adapter(
        "harmbench",
        "HarmBench behaviors",
        "MIT",
        "Mazeika, Phan, Yin, Zou, Wang, Mu, Sakhaee, Li, Basart, Li, Forsyth, Hendrycks: HarmBench: A Standardized "
        "Evaluation Framework for Automated Red Teaming and Robust Refusal. ICML 2024, arXiv:2402.04249",
        "Each behavior, after its context where it has one, is unacceptable, also those whose harm is a breach of "
        f"copyright. Behaviors that ask about an image are left out. {_REST}",
        harmbench,
    ),
    Adapter(
        "xstest",
        "XSTest prompts",
        "CC BY 4.0",
        _XSTEST,
        "A prompt is acceptable when its label is `safe` or, in files without labels, its type does not begin with "
        f"`contrast_`; else it is unacceptable. Prompts with another label or no type are left out. {_REST}",
        xstest,
    ),
    Adapter(
        "xstest-completions",
        "XSTest completions, as two people classified them",
        "prompts CC BY 4.0; completions under the licences of the models (Meta, Mistral, OpenAI)",
        _XSTEST,
        "An answer that fully complies with an unsafe prompt is unacceptable; full refusals and full answers to "
        "safe prompts are acceptable. Partial refusals, which may hold harm or not, and other labels are left "
        f"out, whatever the prompt. {_REST}",
        xstest_completions,
    ),
    Adapter(
        "jailbreakbench",
        "JailbreakBench JBB-Behaviors",
        "MIT",
        "Chao, Debenedetti, Robey, Andriushchenko, Croce, Sehwag, Dobriban, Flammarion, Pappas, Tramèr, Hassani, "
        "Wong: JailbreakBench: An Open Robustness Benchmark for Jailbreaking Large Language Models. NeurIPS 2024 "
        "Datasets and Benchmarks, arXiv:2404.01318",
        "The goals of harmful-behaviors.csv are unacceptable and those of benign-behaviors.csv acceptable; in a "
        f"file of both, a column `split` says which, and twins share a group. Another `split` is left out. {_REST}",
        jailbreakbench,
    ),
    Adapter(
        "advbench",
        "AdvBench harmful behaviors and harmful strings",
        "MIT",
        "Zou, Wang, Carlini, Nasr, Kolter, Fredrikson: Universal and Transferable Adversarial Attacks on Aligned "
        "Language Models. 2023, arXiv:2307.15043",
        f"Goals are prompts; harmful strings are answers without a prompt. {_ALL}",
        advbench,
    ),
    Adapter(
        "simplesafetytests",
        "SimpleSafetyTests",
        "CC BY-NC 4.0 on GitHub, CC BY 2.0 on Hugging Face",
        "Vidgen, Scherrer, Kirk, Qian, Kannappan, Hale, Röttger: SimpleSafetyTests: a Test Suite for Identifying "
        "Critical Safety Risks in Large Language Models. 2023, arXiv:2311.08370",
        _ALL,
        partial(
            harmful_prompts, "simplesafetytests", "prompts_final|prompt",
            {"harm area": "harm_area", "category": "category"}, "id", ["harm_area"],
        ),
    ),
    Adapter(
        "strongreject",
        "StrongREJECT forbidden prompts",
        "MIT",
        "Souly, Lu, Bowen, Trinh, Hsieh, Pandey, Abbeel, Svegliato, Emmons, Watkins, Toyer: A StrongREJECT for "
        "Empty Jailbreaks. NeurIPS 2024 Datasets and Benchmarks, arXiv:2402.10260",
        _ALL,
        partial(
            harmful_prompts, "strongreject", "forbidden_prompt|prompt",
            {"category": "category", "source": "source"}, None, ["category"],
        ),
    ),
    Adapter(
        "hatecheck",
        "HateCheck functional tests (test_suite_cases.csv)",
        "MIT on GitHub, CC BY 4.0 on Hugging Face",
        "Röttger, Vidgen, Nguyen, Waseem, Margetts, Pierrehumbert: HateCheck: Functional Tests for Hate Speech "
        "Detection Models. ACL 2021, arXiv:2012.15606",
        "A case is unacceptable when `label_gold` is hateful and acceptable when it is non-hateful; other labels "
        f"are left out. {_REST}",
        hatecheck,
    ),
    Adapter(
        "jigsaw-toxic",
        "Jigsaw Toxic Comment Classification Challenge",
        "CC0 1.0; the comments themselves CC BY-SA 3.0",
        "cjadams, Sorensen, Elliott, Dixon, McDonald, nithum, Cukierski: Toxic Comment Classification Challenge. "
        "Kaggle 2017",
        "A comment is unacceptable when any of its six labels is 1 and acceptable when all are 0; for test.csv they "
        "are read from test_labels.csv beside it. Comments labelled -1 (not scored) or not labelled are left "
        f"out. {_REST}",
        jigsaw_toxic,
    ),
    Adapter(
        "civil-comments",
        "Civil Comments (Jigsaw Unintended Bias in Toxicity Classification)",
        "CC0 1.0",
        "Borkan, Dixon, Sorensen, Thain, Vasserman: Nuanced Metrics for Measuring Unintended Bias with Real Data "
        "for Text Classification. WWW 2019 Companion, arXiv:1903.04561",
        "A comment is unacceptable when at least half of its raters found it toxic (`target` or `toxicity` of 0.5 "
        f"or more), else acceptable; without such a share it is left out. {_REST}",
        civil_comments,
    ),
    Adapter(
        "beavertails",
        "BeaverTails (PKU-Alignment)",
        "CC BY-NC 4.0",
        "Ji, Liu, Dai, Pan, Zhang, Bian, Zhang, Sun, Wang, Yang: BeaverTails: Towards Improved Safety Alignment of "
        "LLM via a Human-Preference Dataset. NeurIPS 2023 Datasets and Benchmarks, arXiv:2307.04657",
        "An answer is acceptable when `is_safe` is true and unacceptable when it is false; without that, or without "
        f"its prompt, it is left out. {_REST}",
        beavertails,
    ),
    Adapter(
        "guardbench",
        "Conversations in the format of GuardBench",
        "each set's own: see the set's repository; the GuardBench library is EUPL-1.2",
        "Bassani, Sanchez: GuardBench: A Large-Scale Benchmark for Guardrail Models. EMNLP 2024, "
        "https://aclanthology.org/2024.emnlp-main.1022",
        "The last turn is judged, an assistant's with the user's turn before it, and is unacceptable when `label` "
        "is true, else acceptable; earlier turns are not shown. Rows without a label or whose last turn is "
        f"neither a user's nor an assistant's are left out. {_REST}",
        guardbench,
    ),
)  # fmt: skip

ADAPTERS: dict[str, Adapter] = {adapter.name: adapter for adapter in _SETS}
