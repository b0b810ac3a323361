"""Which failures become which error, which of them are tried again, and how many there may be in all."""

from __future__ import annotations

import random
import traceback
from typing import Any

import grpc
import pytest
from pinrec_client import (
    AuthenticationError,
    DeadlineExceededError,
    InvalidRequestError,
    PinRecClientError,
    RetryPolicy,
    ServerError,
    UnavailableError,
)
from pinrec_client.errors import from_rpc
from pinrec_client.retry import Call, RetryBudget

EAGER = RetryPolicy(retries=3, first_pause=0.001)
UNKNOWN_MODEL = "Request for unknown model: 'pinrec' has no available versions"


class Failure(grpc.RpcError):
    """What gRPC raises, as far as the client reads it."""

    def __init__(self, status: str, details: str | None = "some text", pushback: str | None = None) -> None:
        super().__init__(status, details)
        self.code = lambda: grpc.StatusCode[status]
        self.details = lambda: details
        self.trailing_metadata = lambda: None if pushback is None else (("grpc-retry-pushback-ms", pushback),)


def _unavailable(pushback: str | None = None) -> UnavailableError:
    error = from_rpc(Failure("UNAVAILABLE", pushback=pushback), request_id="id-1")
    assert isinstance(error, UnavailableError)
    return error


def _call(policy: RetryPolicy = EAGER, timeout: float = 10, **arguments: Any) -> Call:
    return Call(policy, RetryBudget(policy), timeout, **arguments)


# Errors


@pytest.mark.parametrize(
    ("failure", "error_class"),
    [
        (Failure("INVALID_ARGUMENT"), InvalidRequestError),
        (Failure("UNAVAILABLE"), UnavailableError),
        (Failure("RESOURCE_EXHAUSTED"), UnavailableError),
        (Failure("NOT_FOUND", UNKNOWN_MODEL), UnavailableError),
        (Failure("NOT_FOUND", "in ensemble 'pinrec', no such thing"), ServerError),
        (Failure("DEADLINE_EXCEEDED"), DeadlineExceededError),
        (Failure("UNAUTHENTICATED"), AuthenticationError),
        (Failure("PERMISSION_DENIED"), AuthenticationError),
        (Failure("INTERNAL"), ServerError),
        (Failure("INTERNAL", "Stub process 'generator__r1_0_0' is not healthy."), UnavailableError),
        (Failure("UNIMPLEMENTED"), ServerError),
        (Failure("UNKNOWN", details=None), ServerError),
    ],
    ids=lambda value: " ".join(map(str, value.args)) if isinstance(value, Failure) else value.__name__,
)
def test_error_classes(failure: Failure, error_class: type[PinRecClientError]):
    error = from_rpc(failure, request_id="id-1", endpoint="a:8001")
    assert type(error) is error_class
    assert (error.request_id, error.endpoint) == ("id-1", "a:8001")


@pytest.mark.parametrize("prefix", ["in ensemble 'pinrec', ", "[request id: id-1] "])
def test_the_sentence_of_the_server_is_the_message(prefix: str):
    error = from_rpc(Failure("INVALID_ARGUMENT", prefix + "num_items=0: expected more"), request_id="id-1")
    assert str(error) == "num_items=0: expected more"


def test_a_server_that_repeats_the_key_does_not_show_it():
    error = from_rpc(Failure("UNAUTHENTICATED", "no such key: s3cret"))
    with pytest.raises(AuthenticationError) as caught:
        raise error from error.__cause__
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


# Pauses


def test_an_unavailable_service_is_tried_as_often_as_allowed():
    call = _call()
    for retry in range(3):
        assert 0 <= call.pause_before_retry(_unavailable()) <= EAGER.longest_pause_before(retry)
    with pytest.raises(UnavailableError) as caught:
        call.pause_before_retry(_unavailable())
    assert isinstance(caught.value.__cause__, Failure)


def test_no_pause_outlasts_the_call():
    patient = RetryPolicy(retries=1000, first_pause=1e6, longest_pause=1e6)
    with pytest.raises(UnavailableError):  # a pause of up to 11 days fits into half a second once in two million
        _call(patient, timeout=0.5).pause_before_retry(_unavailable())


def test_pauses_double_up_to_the_longest():
    policy = RetryPolicy(first_pause=0.05, longest_pause=0.3)
    assert [policy.longest_pause_before(retry) for retry in range(4)] == [0.05, 0.1, 0.2, 0.3]


def test_a_pause_is_the_one_asked_for_with_jitter_on_top(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)
    call = _call(RetryPolicy(first_pause=0.2))
    assert call.pause_before_retry(_unavailable("300")) == pytest.approx(0.3 + 0.1)
    assert call.pause_before_retry(_unavailable("0")) == pytest.approx(0.2)  # the bound has doubled


@pytest.mark.parametrize(
    ("pushback", "retry_after", "no_retry"),
    [
        (None, None, False),
        ("0", 0.0, False),
        ("1500", 1.5, False),
        ("-1", None, True),
        ("soon", None, True),
        ("", None, True),
        ("-9223372036854775808", None, True),  # what gRPC makes of a malformed number
    ],
)
def test_what_the_service_asks_for_is_part_of_the_error(pushback: str, retry_after: float | None, no_retry: bool):
    error = _unavailable(pushback)
    assert (error.retry_after, error.no_retry) == (retry_after, no_retry)
    if no_retry:
        with pytest.raises(UnavailableError):
            _call().pause_before_retry(error)


def test_a_pause_that_does_not_fit_is_not_made():
    with pytest.raises(UnavailableError) as caught:
        _call(timeout=0.5).pause_before_retry(_unavailable("700"))
    assert caught.value.retry_after == 0.7


# The retry budget


def test_half_of_the_budget_is_for_retries():
    policy = RetryPolicy(budget=4, budget_ratio=0.5)
    budget = RetryBudget(policy)
    budget.failed()
    assert budget.allows  # 3 of 4 are left
    budget.failed()
    assert not budget.allows  # 2 of 4
    with pytest.raises(UnavailableError):
        Call(policy, budget, 10).pause_before_retry(_unavailable())
    budget.succeeded()
    assert budget.allows
    Call(policy, budget, 10).pause_before_retry(_unavailable())


def test_the_budget_neither_overflows_nor_goes_into_debt():
    budget = RetryBudget(RetryPolicy(budget=2, budget_ratio=1.0))
    for _ in range(10):
        budget.succeeded()
    budget.failed()
    assert not budget.allows
    for _ in range(10):
        budget.failed()
    budget.succeeded()
    assert not budget.allows
    budget.succeeded()
    assert budget.allows


def test_an_extra_attempt_takes_a_token_while_there_may_be_one():
    budget = RetryBudget(RetryPolicy(budget=4))
    assert [budget.take() for _ in range(4)] == [True, True, False, False]
    assert not RetryBudget(RetryPolicy(budget=0)).take()


@pytest.mark.parametrize(
    ("field", "value"),
    [("retries", -1), ("first_pause", -0.1), ("longest_pause", -1), ("budget", float("inf")), ("budget_ratio", 1.5)],
)
def test_a_policy_checks_its_fields(field: str, value: float):
    with pytest.raises(InvalidRequestError, match=f"{field}={value}: expected"):
        RetryPolicy(**{field: value})


# Calls


def test_a_timeout_is_above_zero():
    with pytest.raises(InvalidRequestError, match="timeout=0"):
        _call(timeout=0)


def test_a_call_has_the_given_id_or_a_random_one():
    assert _call(request_id="order-5/ü").request_id == "order-5/ü"
    assert len(_call().request_id) == 32
    assert _call().request_id != _call().request_id


@pytest.mark.parametrize("request_id", ["", "x" * 257, "two\nlines", 5])
def test_a_request_id_fits_on_a_line_of_a_log(request_id: Any):
    with pytest.raises(InvalidRequestError, match=r"request_id=.*printable"):
        _call(request_id=request_id)
