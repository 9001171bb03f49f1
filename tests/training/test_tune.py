"""What rows are known to be under a policy, and the loss over that."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import MistralForCausalLM

from guard.item import Item, Kind
from guard.resources import shipped
from guard.tokenizer import load_tokenizer
from training import tune
from training.config import Config, trained_policies
from training.model import build, packed
from training.sources import Example, admissible, coverage
from training.tune import LONG, SMOOTHING, Batch, Sampler, Tuner, answer_loss, even_out

POLICIES = {policy.id: policy for policy in trained_policies()}


def answer(refusal: str, harmful: bool = False) -> Example:
    item = Item(text="No.", kind=Kind.ANSWER, prompt="Please?")
    return Example(item, "s", "train", harmful, ("illicit",) if harmful else (), refusal=refusal)


def test_refusal_asks_whether_it_declined_and_nothing_else() -> None:
    policy = POLICIES["refusal"]
    assert admissible(answer("compliance", harmful=True), policy, narrowed=False) == [0]
    assert admissible(answer("refusal"), policy, narrowed=False) == [1]
    assert admissible(answer("partial"), policy, narrowed=False) == [2]
    assert admissible(answer("partial", harmful=True), policy, narrowed=False) == [0, 2]
    assert admissible(answer(""), policy, narrowed=False) is None
    assert admissible(answer("refusal"), POLICIES["moderation-13"], narrowed=False) == [0]


def test_every_category_of_every_policy_is_covered() -> None:
    for policy in POLICIES.values():
        if policy.id != "refusal":
            assert set(coverage()[policy.id]) == {category.id for category in policy.categories}


def test_the_loss_is_that_of_the_admissible_labels() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    found = answer_loss(probabilities.log(), [[0], [1, 2]])
    by_hand = [-(1 - SMOOTHING) * torch.tensor(p).log() - SMOOTHING * torch.tensor(1 - p).log() for p in (0.5, 0.9)]
    assert found.item() == pytest.approx(sum(by_hand).item() / 2, rel=1e-5)  # type: ignore[union-attr]


def test_the_worse_answer_should_score_higher() -> None:
    right = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]).log()
    wrong = right[[0, 2, 1]]
    assert answer_loss(right, [[0]]) < answer_loss(wrong, [[0]])


def sampler(content_tokens: int = 144) -> Sampler:
    """Draws from two sources of comments, one of them in contrast pairs."""
    words = "some people wrote a rather long comment about the weather in spring "
    rows = [
        Example(Item(text=f"{words * (1 + 29 * long)} {number}", kind=Kind.COMMENT), source, "train", harmful,
                ("insult",) if harmful else (), pair=f"p {long}{number}" if source == "authored_x" else "")
        for source in ("authored_x", "public") for harmful in (True, False) for long in (0, 1) for number in range(3)
    ]  # fmt: skip
    config = replace(Config(), content_tokens=content_tokens)
    return Sampler(config, rows, [], load_tokenizer(shipped("models") / "embedded"))


def comments(draws: Sampler) -> list[Batch]:
    """Some batches of comments; the other kinds have no rows here."""
    found = []
    for step in range(200):
        with suppress(LookupError):
            found.append(draws.batch(step))
    return found


def test_a_batch_depends_on_the_step_alone() -> None:
    first, second = comments(sampler()), comments(sampler())
    assert [batch.rows for batch in first] == [batch.rows for batch in second]
    assert first[0].rows != first[1].rows


def test_some_batches_are_of_fewer_and_longer_texts() -> None:
    longer = [batch for batch in comments(sampler(content_tokens=40)) if batch.text_tokens == 40 * LONG]
    fewer = Config().tune_rows // 4
    assert longer and all(fewer <= len(batch.rows) <= fewer + 1 for batch in longer)
    assert max(len(row) for batch in longer for row in batch.rows) > 40 * LONG


def tiny(labels: int = 9) -> tuple[MistralForCausalLM, Batch]:
    """A random model, and a batch of rows whose last token tells the right one of two labels."""
    config = replace(Config(), vocab_size=32, hidden_size=24, intermediate_size=40, num_layers=2, num_heads=4,
                     num_kv_heads=2)  # fmt: skip
    prompt = SimpleNamespace(prefix=[1, 2, 3], labels=[[labels], [labels + 1]])
    rows = [[4, 5 + row % 2] for row in range(8)]
    return build(config), Batch(prompt, rows, [[row % 2] for row in range(8)], [], [], 0)  # type: ignore[arg-type]


def test_evening_out_changes_no_answer() -> None:
    judge, batch = tiny()
    with torch.no_grad():
        judge.model.layers[0].mlp.down_proj.weight.mul_(50)
        judge.model.layers[1].self_attn.k_proj.weight.mul_(9)
        judge.model.layers[1].self_attn.v_proj.weight.div_(7)
        before, _ = packed(judge, batch.prompt.prefix, batch.rows)
        even_out(judge)
        after, _ = packed(judge, batch.prompt.prefix, batch.rows)
    assert torch.allclose(before, after, atol=1e-4)
    for layer in judge.model.layers:
        for one, other in (("mlp.up_proj", "mlp.down_proj"), ("self_attn.k_proj", "self_attn.q_proj"),
                           ("self_attn.v_proj", "self_attn.o_proj")):  # fmt: skip
            sizes = [layer.get_submodule(name).weight.std().item() for name in (one, other)]
            assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_tuning_begins_with_the_labels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "PROBED", 3)
    judge, batch = tiny()
    given = {name: value.clone() for name, value in judge.named_parameters()}

    def loss() -> float:
        hidden, starts = packed(judge, batch.prompt.prefix, batch.rows)
        return answer_loss(batch.asked(hidden, starts) @ judge.lm_head.weight[batch.labels].T, batch.answers).item()

    even_out(judge)
    before = loss()
    drawn: list[int] = []
    draws = SimpleNamespace(batch=lambda number: (drawn.append(number), batch)[1])
    Tuner(Config(), draws, None, None).begin(judge)  # type: ignore[arg-type]
    assert loss() < before / 2 and drawn == [-1, -2, -3]
    moved = (judge.lm_head.weight - given["model.embed_tokens.weight"]).abs().sum(1).nonzero()[:, 0].tolist()
    assert moved == batch.labels
    assert torch.equal(judge.model.norm.weight, given["model.norm.weight"])
