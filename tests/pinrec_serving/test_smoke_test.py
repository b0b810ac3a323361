"""How often a release is asked before it serves, and what its answer has to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pinrec_core.errors import ServerError
from pinrec_serving import smoke_test
from pinrec_serving.smoke_test import ATTEMPTS, check_answer
from tests.pinrec_serving.conftest import manifest


@dataclass
class Server:
    """In place of ``ModelControl``: an ensemble that does not answer at first."""

    failures: int = 0
    release: bytes = b"r1"
    asked: int = 0

    def infer(self, name: str, inputs: list[Any], *, timeout: float) -> Server:
        self.asked += 1
        if self.asked <= self.failures:
            raise ServerError(f"{name} does not answer: faiss_retrieval__r1 of index:8001: no answer within 100 ms")
        return self

    def as_numpy(self, name: str) -> np.ndarray:
        return np.array([[self.release]], object) if name == "release" else np.array([[50]])


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_test, "PAUSE", 0.0)


def check(server: Server) -> None:
    control: Any = server
    check_answer(control, "pinrec__r1", "r1", manifest())


@pytest.mark.parametrize("failures", [0, 1, ATTEMPTS - 1])
def test_it_is_asked_until_it_answers(failures: int) -> None:
    server = Server(failures)
    check(server)
    assert server.asked == failures + 1


def test_a_release_that_does_not_answer_is_refused_with_its_last_error() -> None:
    server = Server(failures=ATTEMPTS)
    with pytest.raises(ServerError, match="no answer within 100 ms"):
        check(server)
    assert server.asked == ATTEMPTS


def test_a_wrong_answer_is_refused_at_once() -> None:
    server = Server(release=b"r2")
    with pytest.raises(ServerError, match="expected 'r1'"):
        check(server)
    assert server.asked == 1
