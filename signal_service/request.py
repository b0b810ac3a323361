"""Checks every field of a recommendation request and fills in the defaults. Knows nothing of stores.

The fields are those of ``pinrec_core.contract.REQUEST``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pinrec_core import limits
from pinrec_core.config.sections import GenerationConfig, ModelConfig
from pinrec_core.contract import BUDGET_TOLERANCE, TIMEOUT_US
from pinrec_core.dataset.manifest import UNKNOWN_SURFACE, DatasetManifest
from pinrec_core.deadline import NEVER, Deadline
from pinrec_core.errors import InvalidRequestError, one_of, require, shown
from pinrec_core.generation.draws import seed_of
from pinrec_core.ids import IdKind, user_store_key
from pinrec_core.stages.base import Tensors, scalar, text


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendRequest:
    """A valid request. ``surface`` indexes the vocabulary, ``time`` is in Unix seconds, ``budget`` float32 ``[O]``."""

    user_key: bytes
    num_items: int
    surface: int
    budget: np.ndarray
    query: str | None
    query_embedding: np.ndarray | None  # float32 [F]
    exclude_seen: bool
    time: int
    seed: int
    strength: float | None
    deadline: Deadline


class RequestParser:
    """Checks requests for one release. A request without a time gets that of ``clock`` (Unix seconds)."""

    def __init__(
        self,
        dataset: DatasetManifest,
        model: ModelConfig,
        generation: GenerationConfig,
        clock: Callable[[], float],
    ) -> None:
        self._dataset = dataset
        self._model = model
        self._generation = generation
        self._clock = clock
        self._surface = {name: number for number, name in enumerate(dataset.surfaces)}
        self._default_budget = _normalised(np.asarray(dataset.outcome_share, np.float64))

    def parse(self, tensors: Tensors) -> RecommendRequest:
        """The request in ``tensors``. Raises ``InvalidRequestError``, which names field, value and expectation."""
        limits.check_request_bytes(tensors)
        query, query_embedding = self._query(tensors)
        user_id, time = self._user_id(tensors), self._time(tensors)
        return RecommendRequest(
            user_key=user_store_key(user_id, self._dataset.user_id_kind),
            num_items=self._num_items(tensors),
            surface=self._surface_number(tensors),
            budget=self._budget(tensors),
            query=query,
            query_embedding=query_embedding,
            exclude_seen=bool(_integer(tensors, "exclude_seen", 0)),
            time=time,
            seed=self._seed(tensors, user_id, time),
            strength=self._strength(tensors),
            deadline=self._deadline(tensors),
        )

    def _user_id(self, tensors: Tensors) -> int | str:
        values = tensors.get("user_id")
        if values is None:
            raise InvalidRequestError("user_id is missing: expected one user")
        if values.shape != (1,):
            raise InvalidRequestError(
                f"user_id has shape {list(values.shape)}: expected [1], one user per request; "
                "the server batches requests that arrive together"
            )
        kind = self._dataset.user_id_kind
        user_id = text(values[0], "user_id", limits.ID) if isinstance(values[0], bytes) else int(values[0])
        require(kind is IdKind.INT or user_id != "", "user_id", user_id, "a string that is not empty")
        return user_id

    def _num_items(self, tensors: Tensors) -> int:
        most = self._generation.max_num_items
        num_items = _integer(tensors, "num_items", self._generation.default_num_items)
        least = limits.NUM_ITEMS.least
        require(least <= num_items <= most, "num_items", num_items, f"{least} to {most}, this release's max_num_items")
        return num_items

    def _surface_number(self, tensors: Tensors) -> int:
        sent = scalar(tensors, "surface")
        name = UNKNOWN_SURFACE if sent is None else text(sent, "surface", limits.NAME)
        require(name in self._surface, "surface", name, one_of(self._dataset.surfaces))
        return self._surface[name]

    def _budget(self, tensors: Tensors) -> np.ndarray:
        budget, names = tensors.get("budget"), tensors.get("budget_outcome")
        if not self._model.variant.outcome_conditioned:
            for field, sent in (("budget", budget), ("budget_outcome", names)):
                if sent is not None:
                    raise InvalidRequestError(
                        f"{field} was sent: expected none, this release is not outcome-conditioned"
                    )
            return np.ones(1, np.float32)
        if budget is None:
            if names is not None:
                raise InvalidRequestError(
                    "budget_outcome was sent without budget: expected the weights of its outcomes"
                )
            return self._default_budget
        if budget.ndim != 1:
            raise InvalidRequestError(f"budget has shape {list(budget.shape)}: expected one weight per outcome")
        positions = self._outcome_positions(names, len(budget))
        for position in np.flatnonzero(~(np.isfinite(budget) & (budget >= 0))):
            require(False, f"budget[{position}]", float(budget[position]), "a finite weight, at least 0")
        total = float(budget.astype(np.float64).sum())
        if abs(total - 1) > BUDGET_TOLERANCE:
            raise InvalidRequestError(f"budget sums to {total:.6g}: expected 1 (within {BUDGET_TOLERANCE:g})")
        weights = np.zeros(len(self._dataset.outcomes), np.float64)
        weights[positions] = budget
        return _normalised(weights)

    def _outcome_positions(self, names: np.ndarray | None, weights: int) -> list[int]:
        """The position of each weight's outcome. Outcomes that are not named get no weight."""
        outcomes = self._dataset.outcomes
        if names is None:
            if weights != len(outcomes):
                raise InvalidRequestError(f"budget has {weights} weights: expected {len(outcomes)}, one for each of "
                                          f"{shown(list(outcomes))}, or budget_outcome to name them")  # fmt: skip
            return list(range(len(outcomes)))
        limits.BUDGET.check(weights, "budget", len(outcomes))
        if names.shape != (weights,):
            raise InvalidRequestError(
                f"budget_outcome has shape {list(names.shape)}: expected [{weights}], one name for each weight"
            )
        positions: list[int] = []
        for place, value in enumerate(names):
            field = f"budget_outcome[{place}]"
            name = text(value, field, limits.NAME)
            require(name in outcomes, field, name, one_of(outcomes))
            require(outcomes.index(name) not in positions, field, name, "each outcome once")
            positions.append(outcomes.index(name))
        return positions

    def _query(self, tensors: Tensors) -> tuple[str | None, np.ndarray | None]:
        sent, embedding = scalar(tensors, "query"), tensors.get("query_embedding")
        if sent is not None and embedding is not None:
            raise InvalidRequestError("query and query_embedding were both sent: expected one of them")
        query = None
        if sent is not None:
            query = text(sent, "query", limits.QUERY).strip()
            require(query != "", "query", query, "a text that is not empty; leave query out for no search")
        if embedding is not None:
            F = self._dataset.feature_width
            if embedding.shape != (F,):
                raise InvalidRequestError(
                    f"query_embedding has shape {list(embedding.shape)}: expected [{F}], a vector of feature space "
                    f"{self._dataset.feature_space!r}"
                )
            most = limits.FEATURE_VALUE.most
            for position in np.flatnonzero(~(np.abs(embedding) <= most)):  # NaN is not, either
                require(False, f"query_embedding[{position}]", float(embedding[position]),
                        f"a finite number from -{most} to {most}")  # fmt: skip
        return query, embedding

    def _time(self, tensors: Tensors) -> int:
        time = _integer(tensors, "request_time", None)
        if time is None:
            time = int(self._clock())
        least, most = limits.REQUEST_TIME.least, limits.REQUEST_TIME.most
        require(least <= time <= most, "request_time", time, f"Unix seconds, above 0 and at most {most}")
        return time

    def _deadline(self, tensors: Tensors) -> Deadline:
        timeout = _integer(tensors, TIMEOUT_US, None)
        return NEVER if timeout is None else Deadline.within(timeout / 1e6)

    def _seed(self, tensors: Tensors, user_id: int | str, time: int) -> int:
        seed = _integer(tensors, "seed", None)
        if seed is None:
            return seed_of(user_id, time)
        require(seed >= limits.SEED.least, "seed", seed, "a number of at least 0")
        return seed

    def _strength(self, tensors: Tensors) -> float | None:
        sent = scalar(tensors, "strength")
        if sent is None:
            return None
        if not self._model.variant.outcome_conditioned:
            raise InvalidRequestError("strength was sent: expected none, this release is not outcome-conditioned")
        strength, most = float(sent.item()), limits.STRENGTH.most
        require(0 <= strength <= most, "strength", strength, f"a number from 0 to {most}")
        return strength


Default = TypeVar("Default", int, None)


def _integer(tensors: Tensors, name: str, default: Default) -> int | Default:
    sent = scalar(tensors, name)
    return default if sent is None else int(sent.item())


def _normalised(weights: np.ndarray) -> np.ndarray:
    total = weights.sum()
    return (weights / total if total > 0 else np.full(len(weights), 1 / len(weights))).astype(np.float32)
