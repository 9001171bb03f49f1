"""The fake engine: what it is told, in order, and loudly no more than that."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from guard.engine.fake import FakeEngine
from guard.engine.request import Ended, Request, Sampling
from guard.errors import EngineError


def request(content: int = 2, labels: int = 3) -> Request:
    return Request(((1,), (content,), (5,)), tuple((10 + i,) for i in range(labels)), 99)


def probabilities(answer: object) -> list[float]:
    assert isinstance(answer, tuple)
    return [round(math.exp(value), 9) for value in answer]


def test_the_script_is_handed_out_in_order():
    engine = FakeEngine([[0.5, 0.25, 0.25], EngineError("broken"), [1, 0, 0]])
    first, second = engine.score([request(), request()])
    assert probabilities(first) == [0.5, 0.25, 0.25]
    assert isinstance(second, EngineError) and second.message == "broken"
    (third,) = engine.score([request()])
    assert probabilities(third) == [1, 0, 0]
    assert all(math.isfinite(value) for value in third), "a script may say 0"
    assert engine.score([]) == []


def test_it_fails_loudly_when_the_script_ends():
    engine = FakeEngine([[0.5, 0.5, 0]])
    engine.score([request()])
    with pytest.raises(AssertionError, match="ended before request number 2"):
        engine.score([request()])
    with pytest.raises(AssertionError, match="number 1"):
        FakeEngine([]).score([request()])


@pytest.mark.parametrize("entry", [[], [0.5], [0.5, 0.5], [0.25] * 4])
def test_it_fails_loudly_when_the_script_does_not_fit(entry: list[float]):
    with pytest.raises(AssertionError, match="to 3 labels"):
        FakeEngine([entry]).score([request()])


def test_it_remembers_every_request():
    engine = FakeEngine()
    asked = [request(2), request(3), request(2)]
    engine.score(asked[:2])
    engine.score(asked[2:])
    assert engine.seen == asked


def test_without_a_script_it_answers_by_the_text():
    engine = FakeEngine()
    one, other, again = engine.score([request(2), request(3), request(2)])
    assert one == again != other
    assert len(one) == 3 and math.fsum(probabilities(one)) == pytest.approx(1, abs=1e-6)
    assert FakeEngine().score([request(2)]) == [one]
    assert all(len(FakeEngine().score([request(labels=n)])[0]) == n for n in (1, 2, 14, 40))


def test_the_answers_are_the_same_in_another_process():
    code = (
        "from guard.engine.fake import FakeEngine; from guard.engine.request import Request;"
        "print(FakeEngine().score([Request(((1,), (2,), (5,)), ((10,), (11,), (12,)), 99)]))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    assert out.strip() == str(FakeEngine().score([request()]))


def test_it_says_what_it_is():
    assert (FakeEngine().model_id, FakeEngine().max_tokens, FakeEngine(max_tokens=100).max_tokens) == (
        "fake",
        4096,
        100,
    )


def test_a_running_text_is_answered_as_a_whole_one():
    engine = FakeEngine()
    stream = engine.stream()
    engine.extend(stream, (1, 2))
    engine.extend(stream, (3,))
    whole = Request(((1,), (2, 3, 4), (5,)), ((7,), (8,)), 9)
    assert engine.ask(stream, [Request(((), (4,), (5,)), ((7,), (8,)), 9)]) == engine.score([whole])


def test_what_it_generates_is_its_prompt():
    made = FakeEngine().generate((1, 2, 3), Sampling())
    assert (list(made), made.ended) == ([1, 2, 3], Ended.STOP)
    short = FakeEngine().generate((1, 2, 3), Sampling(max_tokens=2))
    assert (list(short), short.ended) == ([1, 2], Ended.LENGTH)
