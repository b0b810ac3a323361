"""``run_batch``: N requests get N answers in order, and a row that fails costs its neighbours a few runs at most."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinrec_core.errors import InvalidRequestError, PinRecError, ServerError, StoreError
from pinrec_core.limits import NAME
from pinrec_core.stages.base import Tensors, run_batch, scalar, text

GOOD, MALFORMED, REFUSED, POISON, STORE, SERVER = "good", "malformed", "refused", "poison", "store", "server"
EXPECTED = {
    MALFORMED: (InvalidRequestError, "kind='malformed'"),
    REFUSED: (StoreError, "refused alone"),
    POISON: (PinRecError, "internal error (ZeroDivisionError)"),
}


@dataclass
class Squares:
    """Answers x with x². The kind of a row says how it fails: in ``parse``, with its answer, or with the whole run."""

    runs: list[int] = field(default_factory=list)

    def parse(self, tensors: Tensors) -> tuple[int, str]:
        kind = str(tensors["kind"][0])
        if kind == MALFORMED:
            raise InvalidRequestError(f"kind={kind!r}")
        return int(tensors["x"][0]), kind

    def run(self, rows: Sequence[tuple[int, str]]) -> Sequence[Tensors | PinRecError]:
        self.runs.append(len(rows))
        for _, kind in rows:
            if kind == POISON:
                raise ZeroDivisionError("secret detail")
            if kind == STORE:
                raise StoreError("the store is closed")
            if kind == SERVER:
                raise ServerError("the server is away")
        return [StoreError("refused alone") if kind == REFUSED else {"y": np.array([x * x])} for x, kind in rows]


def requests(kinds: Sequence[str]) -> list[Tensors]:
    return [{"x": np.array([x]), "kind": np.array([kind])} for x, kind in enumerate(kinds)]


def said(answer: Tensors | PinRecError) -> object:
    return (type(answer), str(answer)) if isinstance(answer, PinRecError) else answer["y"].tolist()


def batch(count: int, *poisoned: int) -> list[str]:
    return [POISON if position in poisoned else GOOD for position in range(count)]


@given(st.lists(st.sampled_from([GOOD, MALFORMED, REFUSED, POISON]), max_size=40))
def test_whichever_rows_fail_exactly_they_get_errors_and_the_others_what_they_get_alone(kinds: list[str]) -> None:
    stage = Squares()
    answers = run_batch(stage, requests(kinds))
    alone = [run_batch(Squares(), [request])[0] for request in requests(kinds)]
    assert [said(answer) for answer in answers] == [said(answer) for answer in alone]
    assert [said(answer) for answer in answers] == [EXPECTED.get(kind, [x * x]) for x, kind in enumerate(kinds)]
    parsed = sum(kind != MALFORMED for kind in kinds)
    failing = sum(kind == POISON for kind in kinds)
    if parsed:  # each failing row fails at most one part per level, and each failed part has two halves
        assert len(stage.runs) <= 1 + 2 * failing * math.ceil(math.log2(parsed))


@pytest.mark.parametrize(
    ("poisoned", "most"),
    [
        ((), 1),
        ((0,), 11),
        ((17,), 11),
        ((31,), 11),
        ((16, 17), 11),  # they share every part down to a pair
        ((0, 31), 19),  # they share the whole batch alone, and fail two parts on each of four levels
        (tuple(range(32)), 63),
    ],
    ids=["none", "first", "middle", "last", "neighbours", "far apart", "all"],
)
def test_the_number_of_runs_grows_with_the_logarithm_of_the_batch(poisoned: tuple[int, ...], most: int) -> None:
    stage = Squares()
    answers = run_batch(stage, requests(batch(32, *poisoned)))
    assert len(stage.runs) <= most
    assert [position for position, answer in enumerate(answers) if isinstance(answer, PinRecError)] == list(poisoned)


def test_the_neighbours_of_a_poisoned_row_are_run_together() -> None:
    stage = Squares()
    run_batch(stage, requests(batch(8, 2)))
    assert stage.runs == [8, 4, 2, 2, 1, 1, 4]


@pytest.mark.parametrize(("kind", "error"), [(STORE, StoreError), (SERVER, ServerError)])
def test_a_store_or_server_that_is_down_answers_every_row_after_one_run(kind: str, error: type[PinRecError]) -> None:
    stage = Squares()
    answers = run_batch(stage, requests([GOOD, MALFORMED, kind, GOOD]))
    assert [type(answer) for answer in answers] == [error, InvalidRequestError, error, error]
    assert stage.runs == [3]


def test_a_batch_without_valid_rows_is_not_run() -> None:
    stage = Squares()
    assert run_batch(stage, []) == []
    assert len(run_batch(stage, requests([MALFORMED, MALFORMED]))) == 2
    assert stage.runs == []


def test_an_unforeseen_error_is_the_cause_of_its_answer_and_leaks_nothing() -> None:
    answer = run_batch(Squares(), requests(batch(32, 17)))[17]
    assert isinstance(answer, PinRecError)
    assert "secret detail" not in str(answer)
    assert isinstance(answer.__cause__, ZeroDivisionError)
    shown = "".join(traceback.format_exception(answer))  # what a caller sees that raises the answer
    assert shown.count("ZeroDivisionError: secret detail") == 1, "the errors of the larger parts are not in it"
    assert "in run\n" in shown


def test_a_failed_part_is_logged_as_one_warning_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        run_batch(Squares(), requests(batch(32, 17)))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 5, "32, 16, 8, 4 and 2 rows"
    assert not any(record.exc_info for record in caplog.records)
    assert all("secret detail" in record.getMessage() for record in caplog.records)


@dataclass
class Miscounting:
    """Answers x with x, but a run of n rows with ``answers_for(n)`` answers."""

    answers_for: Callable[[int], int]

    def parse(self, tensors: Tensors) -> int:
        return int(tensors["x"][0])

    def run(self, rows: Sequence[int]) -> Sequence[Tensors | PinRecError]:
        return [{"y": np.array([rows[min(i, len(rows) - 1)]])} for i in range(self.answers_for(len(rows)))]


@pytest.mark.parametrize(
    "answers_for",
    [lambda n: n - (n > 1), lambda n: n + (n > 1), lambda n: {7: 6, 3: 4, 4: 3}.get(n, n)],
    ids=["too few", "too many", "halves whose numbers sum to the whole's"],
)
def test_a_run_with_a_wrong_number_of_answers_counts_as_failed(answers_for: Callable[[int], int]) -> None:
    answers = run_batch(Miscounting(answers_for), [{"x": np.array([x])} for x in range(7)])
    assert [said(answer) for answer in answers] == [[x] for x in range(7)]


def test_a_row_without_an_answer_gets_an_error() -> None:
    (answer,) = run_batch(Miscounting(lambda n: 0), [{"x": np.array([1])}])
    assert said(answer) == (PinRecError, "internal error (RuntimeError)")


def test_scalars_and_text() -> None:
    assert scalar({}, "x") is None
    assert scalar({"x": np.array([3])}, "x") == 3
    with pytest.raises(InvalidRequestError, match=r"x has shape \[2\]: expected \[1\]"):
        scalar({"x": np.array([1, 2])}, "x")
    assert text("café".encode(), "x", NAME) == text("café", "x", NAME) == "café"
    with pytest.raises(InvalidRequestError, match="expected UTF-8 text"):
        text(b"\xff", "x", NAME)
    with pytest.raises(InvalidRequestError, match="x has 1025 bytes: expected at most 1024"):
        text(b"\xff" * 1025, "x", NAME)  # counted before it is decoded
