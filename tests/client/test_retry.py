"""Which failures become which error, and which of them are tried again."""

from __future__ import annotations

import pytest
from pinrec_client import (
    DeadlineExceededError,
    InvalidRequestError,
    PinRecClientError,
    RetryPolicy,
    ServerError,
    UnavailableError,
)
from pinrec_client.errors import from_triton
from pinrec_client.retry import Call
from tritonclient.utils import InferenceServerException

EAGER = RetryPolicy(retries=3, first_pause=0.001)


def _failure(status: str, message: str = "some text") -> InferenceServerException:
    return InferenceServerException(message, status=f"StatusCode.{status}")


UNKNOWN_MODEL = "Request for unknown model: 'pinrec' has no available versions"


@pytest.mark.parametrize(
    ("failure", "error_class"),
    [
        (_failure("INVALID_ARGUMENT"), InvalidRequestError),
        (_failure("UNAVAILABLE"), UnavailableError),
        (_failure("NOT_FOUND", UNKNOWN_MODEL), UnavailableError),
        (_failure("NOT_FOUND", "in ensemble 'pinrec', no such thing"), ServerError),
        (_failure("DEADLINE_EXCEEDED"), DeadlineExceededError),
        (_failure("INTERNAL"), ServerError),
        (_failure("UNIMPLEMENTED"), ServerError),
        (InferenceServerException("no status at all"), ServerError),
    ],
)
def test_error_classes(failure: InferenceServerException, error_class: type[PinRecClientError]):
    error = from_triton(failure, "id-1")
    assert type(error) is error_class
    assert error.request_id == "id-1"


@pytest.mark.parametrize("prefix", ["in ensemble 'pinrec', ", "[request id: id-1] "])
def test_the_sentence_of_the_server_is_the_message(prefix: str):
    error = from_triton(_failure("INVALID_ARGUMENT", prefix + "num_items=0: expected more"), "id-1")
    assert str(error) == "num_items=0: expected more"


def test_an_unavailable_service_is_tried_as_often_as_allowed():
    call = Call(EAGER, timeout=10)
    for retry in range(3):
        assert 0 <= call.pause_before_retry(_failure("UNAVAILABLE")) <= EAGER.longest_pause_before(retry)
    with pytest.raises(UnavailableError) as caught:
        call.pause_before_retry(_failure("UNAVAILABLE"))
    assert isinstance(caught.value.__cause__, InferenceServerException)


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED"])
def test_nothing_else_is_tried_again(status: str):
    with pytest.raises(PinRecClientError):
        Call(EAGER, timeout=10).pause_before_retry(_failure(status))


def test_no_pause_outlasts_the_call():
    patient = RetryPolicy(retries=1000, first_pause=1e6, longest_pause=1e6)
    call = Call(patient, timeout=0.5)
    with pytest.raises(UnavailableError):  # a pause of up to 11 days fits into half a second once in two million
        call.pause_before_retry(_failure("UNAVAILABLE"))


def test_pauses_double_up_to_the_longest():
    policy = RetryPolicy(first_pause=0.05, longest_pause=0.3)
    assert [policy.longest_pause_before(retry) for retry in range(4)] == [0.05, 0.1, 0.2, 0.3]


def test_a_timeout_is_above_zero():
    with pytest.raises(InvalidRequestError, match="timeout=0"):
        Call(EAGER, timeout=0)
