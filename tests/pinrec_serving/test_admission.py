"""The limit of requests in flight follows what is served."""

from __future__ import annotations

from pinrec_serving.admission import LEAST, InFlightLimit


def test_under_overload_a_request_stays_as_long_as_it_should() -> None:
    limit = InFlightLimit(most=64, target_seconds=0.2)
    assert limit.limit == 64
    for _ in range(10):
        got = limit.after(served=100, refused=30, seconds=1.0)
    assert got == 20  # 100 per second for 0.2 seconds


def test_one_slow_second_moves_it_half_way() -> None:
    limit = InFlightLimit(most=64, target_seconds=0.2)
    limit.after(served=100, refused=1, seconds=1.0)
    assert limit.after(served=50, refused=1, seconds=1.0) == 15


def test_it_stays_between_its_bounds() -> None:
    slow, fast = (InFlightLimit(most=32, target_seconds=0.2) for _ in range(2))
    assert slow.after(served=1, refused=100, seconds=1.0) == LEAST
    assert fast.after(served=5000, refused=100, seconds=1.0) == 32
    assert InFlightLimit(most=2, target_seconds=0.2).after(served=1, refused=9, seconds=1.0) == 2


def test_it_grows_back_when_nothing_is_refused() -> None:
    limit = InFlightLimit(most=32, target_seconds=0.2)
    limit.after(served=50, refused=10, seconds=1.0)
    grown = [limit.after(served=20, refused=0, seconds=1.0) for _ in range(6)]
    assert grown == sorted(grown)
    assert grown[-1] == 32
