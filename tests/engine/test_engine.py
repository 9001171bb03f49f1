"""The engine against the full-matrix oracle: windows, trees, companies, failures."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from guard.engine.engine import TorchEngine
from guard.engine.model import TreeModel
from guard.engine.native import BuildFailed, library
from guard.engine.request import Request
from guard.errors import EngineError
from tests.oracles import full_matrix_logits, oracle_score, tiny_mistral

WINDOW = 12
EXACT = 1e-5  # float32, relative to the size of the log-probability


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def reference(folder: Path):
    return tiny_mistral(folder, window=WINDOW)


def kernels_here() -> list[str]:
    """Both, wherever there is a compiler (test_native.py sees to it that the native ones are then had)."""
    try:
        library()
    except BuildFailed:
        return ["torch"]
    return ["torch", "native"]


@pytest.fixture(params=kernels_here())
def kernels(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture()
def engine(folder: Path, reference, kernels: str) -> TorchEngine:
    return TorchEngine.load(folder, dtype="float32", kernels=kernels)


def ids(draw: random.Random, length: int) -> tuple[int, ...]:
    return tuple(draw.randrange(3, 61) for _ in range(length))


def close(one, other, tolerance: float = EXACT) -> bool:
    near = (abs(a - b) <= tolerance * max(1.0, abs(a)) for a, b in zip(one, other, strict=True))
    return len(one) == len(other) and all(near)


LABELS = ((7,), (7, 8), (9,), (10, 11, 12))


def test_the_oracle_itself_agrees_with_hugging_face_eager(folder, reference):
    from transformers import AutoModelForCausalLM

    eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    tokens = list(ids(random.Random(1), 2 * WINDOW + 5))
    with torch.no_grad():
        logits = eager(torch.tensor([tokens])).logits[0]
    assert torch.allclose(logits, full_matrix_logits(reference, tokens), atol=1e-3)


@pytest.mark.parametrize("prefix", [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 1, 3 * WINDOW])
@pytest.mark.parametrize("content", [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 1, 3 * WINDOW])
def test_window_is_exact_at_its_edges(engine, reference, prefix, content):
    draw = random.Random(prefix * 100 + content)
    request = Request((ids(draw, prefix), ids(draw, content), ids(draw, 3)), LABELS, 2)
    (found,) = engine.score([request])
    assert close(found, oracle_score(reference, request))


@pytest.mark.parametrize("window", [None, 5])
def test_without_a_window_and_with_a_short_one(tmp_path, window, kernels):
    model = tiny_mistral(tmp_path, window=window, seed=3)
    draw = random.Random(5)
    requests = [Request((ids(draw, 9), ids(draw, n), ids(draw, 2)), LABELS, 2) for n in (1, 4, 30)]
    for request, found in zip(
        requests, TorchEngine.load(tmp_path, dtype="float32", kernels=kernels).score(requests), strict=True
    ):
        assert close(found, oracle_score(model, request))


def test_a_window_off_by_one_would_be_seen(engine, reference, monkeypatch):
    """The comparison above is only worth something if a wrong window fails it."""
    draw = random.Random(11)
    request = Request((ids(draw, WINDOW), ids(draw, WINDOW), ids(draw, 3)), LABELS, 2)
    (kernels,) = engine._model.kernels.values()
    monkeypatch.setattr(kernels, "geometry", dataclasses.replace(kernels.geometry, window=WINDOW + 1))
    (found,) = engine.score([request])
    assert not close(found, oracle_score(reference, request), 1e-2)


SEGMENT = st.lists(st.integers(3, 60), min_size=1, max_size=2 * WINDOW).map(tuple)


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    prefixes=st.lists(SEGMENT, min_size=1, max_size=2),
    tails=st.lists(st.lists(SEGMENT, min_size=1, max_size=3).map(tuple), min_size=1, max_size=5),
    labels=st.lists(
        st.lists(st.integers(3, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5, unique=True
    ),
)
def test_random_trees_equal_the_oracle(engine, reference, prefixes, tails, labels):
    requests = [Request((prefix, *tail), tuple(labels), 2) for prefix in prefixes for tail in tails]
    for request, found in zip(requests, engine.score(requests), strict=True):
        assert close(found, oracle_score(reference, request))


def test_same_answer_in_any_company(engine):
    draw = random.Random(2)
    policies = [ids(draw, 20), ids(draw, 7)]
    requests = [Request((policies[n % 2], ids(draw, 1 + n % 29), ids(draw, 4)), LABELS, 2) for n in range(60)]
    alone = [engine.score([request])[0] for request in requests]
    together = engine.score(requests)
    again = engine.score(list(reversed(requests)))[::-1]
    for one, two, three in zip(alone, together, again, strict=True):
        assert close(one, two) and close(one, three)


def test_small_batches_and_a_store_that_holds_one_policy_give_the_same(folder, reference, kernels):
    draw = random.Random(4)
    policies = [ids(draw, 20), ids(draw, 20)]
    requests = [Request((policies[n % 2], ids(draw, 1 + n), ids(draw, 2)), LABELS, 2) for n in range(12)]
    wide = TorchEngine.load(folder, dtype="float32", kernels=kernels)
    memory = wide._model.kept_bytes(38)  # room for the largest request, and for one policy
    narrow = TorchEngine.load(folder, dtype="float32", kernels=kernels, batch_tokens=8, memory_bytes=memory)
    assert all(close(a, b) for a, b in zip(wide.score(requests), narrow.score(requests), strict=True))
    assert len(narrow._store) < len(wide._store) == 2


def test_many_questions_about_one_content_equal_each_asked_alone(engine, reference):
    draw = random.Random(8)
    policy, contents = ids(draw, 20), [ids(draw, n) for n in (1, 17, 30)]
    questions = [ids(draw, n) for n in (1, 2, 3, 8, 8, 9)]
    requests = [Request((policy, content, question), LABELS, 2) for content in contents for question in questions]
    for request, found in zip(requests, engine.score(requests), strict=True):
        assert close(found, oracle_score(reference, request))


def test_the_order_of_the_sum_does_not_depend_on_company(folder, reference, kernels):
    """The native kernels and oneDNN's products go through a row's numbers in one order, so not even a bit differs."""
    engine = TorchEngine.load(folder, dtype="float32", kernels=kernels)
    draw = random.Random(9)
    policy, question = ids(draw, 20), ids(draw, 3)
    requests = [Request((policy, ids(draw, 1 + n % 29), question), LABELS, 2) for n in range(50)]
    together, alone = engine.score(requests), [engine.score([request])[0] for request in requests]
    if kernels == "native" and torch.backends.mkldnn.is_available():
        assert together == alone
    assert all(close(a, b) for a, b in zip(together, alone, strict=True))


def test_bfloat16_stays_near_float32(folder, reference, kernels):
    """bfloat16 has 8 bits of mantissa; with weights of unit size the log-probabilities still agree to about a tenth."""
    draw = random.Random(6)
    requests = [Request((ids(draw, 10), ids(draw, 8), ids(draw, 2)), ((7,), (9,)), 2) for _ in range(10)]
    fine = TorchEngine.load(folder, dtype="float32", kernels=kernels).score(requests)
    coarse = TorchEngine.load(folder, dtype="bfloat16", kernels=kernels).score(requests)
    off = [abs(a - b) for x, y in zip(fine, coarse, strict=True) for a, b in zip(x, y, strict=True)]
    assert sum(off) / len(off) < 0.3


def test_each_bad_request_gets_its_own_error_and_the_rest_their_scores(engine, reference):
    good = Request(((5, 6), (7,), (8,)), ((9,), (10,)), 2)
    bad = [
        Request((), ((9,),), 2),
        Request(((5,),), ((9,),), 2),
        Request(((5,), ()), ((9,),), 2),
        Request(((5,), (6,)), (), 2),
        Request(((5,), (6,)), ((9,), ()), 2),
        Request(((5,), (6,)), ((9,), (9,)), 2),
        Request(((5,), (61,)), ((9,),), 2),
        Request(((5,), (-1,)), ((9,),), 2),
        Request(((5,), tuple([6] * 128)), ((9,),), 2),
    ]
    found = engine.score([good, *bad, good])
    assert close(found[0], oracle_score(reference, good)) and close(found[-1], oracle_score(reference, good))
    assert all(isinstance(result, EngineError) for result in found[1:-1])
    assert "61" in str(found[7]) and "128" in str(found[9])


def test_a_request_larger_than_the_memory_is_refused_alone(folder, reference, kernels):
    engine = TorchEngine.load(folder, dtype="float32", kernels=kernels)
    engine._memory_bytes = engine._model.kept_bytes(30)
    small, large = (Request(((5,) * 20, (6,) * n), ((9,), (10,)), 2) for n in (10, 11))
    one, other = engine.score([small, large])
    assert close(one, oracle_score(reference, small))
    assert isinstance(other, EngineError) and "memory" in other.message and "31 tokens" in other.message


class TestPinning:
    def test_a_pinned_policy_is_computed_once_and_stays(self, engine, reference, monkeypatch):
        draw = random.Random(12)
        served, others = ids(draw, 9), [ids(draw, 9) for _ in range(4)]
        computed = []
        whole = TreeModel.prefill
        monkeypatch.setattr(
            TreeModel, "prefill", lambda self, tokens, *a: computed.append(tokens) or whole(self, tokens, *a)
        )
        engine._store = type(engine._store)(2 * whole(engine._model, served).num_bytes)
        engine.pin([served])
        for policy in (*others, served):
            request = Request((policy, (7, 8), (9,)), LABELS, 2)
            assert close(engine.score([request])[0], oracle_score(reference, request))
        assert computed == [served, *others]

    @pytest.mark.parametrize("tokens", [(5, 61), (5,) * 129])
    def test_what_cannot_be_pinned_is_an_error(self, engine, tokens):
        with pytest.raises(EngineError):
            engine.pin([tokens])

    def test_more_than_the_memory_holds_is_an_error(self, engine):
        engine._store = type(engine._store)(engine._model.prefill((5,)).num_bytes)
        with pytest.raises(EngineError, match="fit"):
            engine.pin([(5,), (6,)])


def test_no_requests_no_answers(engine):
    assert engine.score([]) == []


def test_a_kernel_that_fails_on_one_request_costs_only_that_one(engine, reference, monkeypatch):
    poison = 60
    requests = [Request(((5, 6), (n, 7), (8,)), ((9,), (10,)), 2) for n in (11, poison, 13)]
    whole = TreeModel.hidden

    def failing(self, made, *rest):
        if poison in made.tokens:
            raise RuntimeError("planted")
        return whole(self, made, *rest)

    monkeypatch.setattr(TreeModel, "hidden", failing)
    found = engine.score(requests)
    assert isinstance(found[1], EngineError)
    assert close(found[0], oracle_score(reference, requests[0]))
    assert close(found[2], oracle_score(reference, requests[2]))
    # the engine still answers
    assert not isinstance(engine.score([requests[0]])[0], EngineError)


def test_non_finite_numbers_are_an_error(engine, monkeypatch):
    monkeypatch.setattr(TreeModel, "log_probs", lambda self, hidden: torch.full((len(hidden), 61), float("nan")))
    (found,) = engine.score([Request(((5,), (6,)), ((9,),), 2)])
    assert isinstance(found, EngineError) and "finite" in found.message


def test_a_changed_policy_never_meets_the_old_keys(engine, reference):
    """A stale prefix after a policy change would be a verdict under a policy that no longer stands."""
    first = Request(((5, 6, 7), (8,), (9,)), ((10,), (11,)), 2)
    second = Request(((5, 6, 12), (8,), (9,)), ((10,), (11,)), 2)
    engine.score([first])
    assert close(engine.score([second])[0], oracle_score(reference, second))
