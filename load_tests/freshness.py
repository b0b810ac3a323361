"""Measures freshness: how long after an acknowledged write its event shows in a recommendation.

A user whom nobody knows asks for unseen items, writes an event on the first of them, and asks again until the answer
does not hold that item any more. Items that a user has seen are left out, so an answer without it has read the event.
The requests have equal seeds and equal request times, so nothing else can have changed the answer but a swap of the
release, after which the probe is given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from pinrec_client import Event, PinRecClient, PinRecClientError, RecommendRequest

from load_tests.recorder import PROBE, NotVisibleError, UndecidedError
from load_tests.workload import Workload

NAME = "freshness"
PATIENCE = 10.0  # seconds after which an event that shows no effect counts as invisible
SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.2  # seconds between two questions; each pause is twice as long as the last one
NUM_ITEMS = 10


class FreshnessProbe:
    """Probes, one after the other, and fires an event of Locust for each (``fire``; ``request_type`` is ``PROBE``).

    ``response_time`` is in milliseconds. It ends with the arrival of the answer, so it holds the time of one request.
    """

    def __init__(self, client: PinRecClient, workload: Workload, random: Random, fire: Callable[..., None]) -> None:
        self._client, self._workload, self._random, self._fire = client, workload, random, fire

    def run(self, interval: float) -> None:
        """Begin a probe every ``interval`` seconds, or when the one before has ended. Never returns."""
        due = time.monotonic()
        while True:
            self.probe()
            due = max(due + interval, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0.0))

    def probe(self) -> None:
        """Measure once."""
        began = written = time.monotonic()
        visible_ms, error = 0.0, None
        try:
            request, event, release = self._prepare()
            self._client.log_events([event])
            written = time.monotonic()
            visible_ms = (self._wait_until_visible(request, event, release, written) - written) * 1000
        except (NotVisibleError, UndecidedError) as undetermined:
            error = undetermined
        except PinRecClientError as failed:
            error = UndecidedError(f"{type(failed).__name__}: {failed}")
        self._fire(
            request_type=PROBE,
            name=NAME,
            response_time=visible_ms,
            response_length=0,
            exception=error,
            context={"arrival": written if written > began else began},
        )

    def _prepare(self) -> tuple[RecommendRequest, Event, str]:
        """A request of a new user, an event on an item that is in its answer now, and the release that answered."""
        now = int(time.time())
        request = RecommendRequest(
            user_id=self._workload.cold_user(self._random),
            num_items=NUM_ITEMS,
            exclude_seen=True,
            request_time=now,
            seed=0,
        )
        answer = self._client.send(request)
        if not answer.items:
            raise UndecidedError("the answer for a new user holds no item")
        # A request sees the events before its time, hence the second between them.
        event = Event(
            user_id=request.user_id,
            action=self._workload.outcomes[0],
            timestamp=now - 1,
            item_id=answer.items[0].item_id,
        )
        return request, event, answer.release

    def _wait_until_visible(self, request: RecommendRequest, event: Event, release: str, written: float) -> float:
        """The monotonic time of the first answer without the event's item.

        Raises ``NotVisibleError``, or ``UndecidedError`` when there was no answer or the release was swapped.
        """
        answered = False
        pause = SHORTEST_PAUSE
        while time.monotonic() < written + PATIENCE:
            try:
                answer = self._client.send(request)
            except PinRecClientError:  # refused or late, which says nothing about freshness
                pass
            else:
                if answer.release != release:
                    raise UndecidedError("the release was swapped")
                if event.item_id not in [item.item_id for item in answer.items]:
                    return time.monotonic()
                answered = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        if answered:
            raise NotVisibleError(f"an event was not visible {PATIENCE:g} s after its write")
        raise UndecidedError(f"no answer within {PATIENCE:g} s")
