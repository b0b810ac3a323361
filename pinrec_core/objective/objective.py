"""The loss of one training batch (PinRec, objective): it draws targets and negatives and scores them by the softmax.

The head is conditioned on the outcome and the offset of each target, and in a share of the windows on the offset alone.
Search queries of a history are context and never targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from pinrec_core.config.sections import ObjectiveConfig, Variant, WindowReduction
from pinrec_core.history import NO_OUTCOME
from pinrec_core.model.sequence_model import HistoryBatch, ItemModel
from pinrec_core.objective.count_min_sketch import CountMinSketch
from pinrec_core.objective.sampled_softmax import (
    Candidates,
    Positives,
    Queries,
    members,
    pool_log_q,
    streamed_sampled_softmax_loss,
)
from pinrec_core.objective.targets import (
    Targets,
    draw_all_actions,
    draw_windows,
    share_queries,
    windows_by_position,
    windows_by_time,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """Histories with what only training needs: item keys, outcomes and random items.

    Keys are for the ID tables, the masks and the sketch; outcomes are for the conditioning. The ID embeddings of
    ``history`` are empty. The objective looks them up, so that one forward pass leads from the tables to the loss.
    """

    history: HistoryBatch
    item_key: Tensor  # int64 [B, T]
    outcome: Tensor  # int64 [B, T], NO_OUTCOME for search queries
    random_key: Tensor  # int64 [R], of items drawn uniformly from the catalogue
    random_feature: Tensor  # int8 [R, F]
    random_scale: Tensor  # float [R]

    def to(self, device: torch.device | str) -> TrainingBatch:
        return TrainingBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """How much a forward pass scored. These sizes follow from its draws."""

    queries: int
    in_batch: int  # candidates that are targets of the batch
    random: int  # candidates that are random items


class Objective(nn.Module):
    """A model with its loss, its learned temperature and its sketch. Training runs this module, and DDP wraps it."""

    def __init__(self, model: ItemModel, config: ObjectiveConfig, *, catalogue_size: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.catalogue_size = catalogue_size
        self.log_inverse_temperature = nn.Parameter(torch.tensor(-math.log(config.init_temperature)))
        self.sketch = CountMinSketch(width=config.sketch_width, depth=config.sketch_depth)
        self.scored = Scored(queries=0, in_batch=0, random=0)  # what the latest forward pass scored

    @property
    def inverse_temperature(self) -> Tensor:
        """λ, the learned inverse temperature, capped."""
        return self.log_inverse_temperature.clamp(max=math.log(self.config.max_inverse_temperature)).exp()

    @torch.no_grad()
    def cap_temperature(self) -> None:
        """Bring λ back to its cap after a step. Above the cap its gradient is zero, so it could never fall again."""
        self.log_inverse_temperature.clamp_(max=math.log(self.config.max_inverse_temperature))

    def forward(self, batch: TrainingBatch) -> Tensor:
        """The mean loss over the windows drawn from the batch, a scalar.

        In training mode the sketch counts the targets of the batch.
        """
        B, T = batch.item_key.shape
        ids = self.model.id_embedding(batch.item_key.flatten()).unflatten(0, (B, T))
        hidden, item = self.model(replace(batch.history, id_embedding=ids))
        real = torch.arange(T, device=item.device) < batch.history.length.unsqueeze(1)
        is_target = real & (batch.outcome != NO_OUTCOME)
        if self.training:
            self.sketch.update(batch.item_key[is_target])

        targets = self._draw_targets(batch, is_target)
        outcome = self._conditioned_on(batch.outcome[targets.user, targets.target], targets)
        first, query = share_queries(targets, outcome, self.model.config.head_conditions)
        user, position = targets.user[first], targets.position[first]
        condition = self._conditions()[outcome[first], targets.offset[first] - 1]
        target_key = batch.item_key[targets.user, targets.target]
        pool = self._draw_pool(batch, item, is_target)
        self.scored = Scored(queries=len(first), in_batch=pool.in_batch, random=len(pool.item) - pool.in_batch)
        loss = streamed_sampled_softmax_loss(
            Queries(
                vector=self.model.head.conditioned(hidden[user, position], condition),
                row=user if self.config.mask_own_positives else targets.window[first],
            ),
            Positives(item=item[targets.user, targets.target], log_q=self._log_q(target_key, pool), query=query),
            Candidates(
                item=pool.item,
                log_q=self._log_q(pool.item_key, pool),
                excluded=self._excluded(batch, is_target, targets, target_key, pool),
            ),
            self.inverse_temperature,
        )
        return reduce_windows(loss, targets.window, targets.num_windows, self.config.window_reduction)

    def _conditioned_on(self, outcome: Tensor, targets: Targets) -> Tensor:
        """The condition of each target, int64 ``[m]``: its outcome, or none in a share of the windows of training."""
        config = self.model.config
        if not config.variant.outcome_conditioned:
            return torch.zeros_like(outcome)
        if not self.training:
            return outcome
        dropped = torch.rand(targets.num_windows, device=outcome.device) < self.config.outcome_dropout
        return torch.where(dropped[targets.window], config.num_conditions, outcome)

    def _conditions(self) -> Tensor:
        """The head's conditioning for each condition and offset, ``[C, Δmax, …]``, computed once and not per query."""
        config, device = self.model.config, self.log_inverse_temperature.device
        outcome = torch.arange(config.head_conditions, device=device).unsqueeze(1)
        offset = torch.arange(1, config.max_offset + 1, device=device)
        return self.model.head.condition(*torch.broadcast_tensors(outcome, offset))

    def _draw_targets(self, batch: TrainingBatch, is_target: Tensor) -> Targets:
        config, model = self.config, self.model.config
        if model.variant is Variant.PINNERFORMER:
            return draw_all_actions(
                is_target, batch.history.timestamp, horizon_days=config.horizon_days, windows=config.windows_per_step
            )
        if model.offset_seconds:
            first = windows_by_time(batch.history.timestamp, batch.history.length, model.offset_seconds)
        else:
            first = windows_by_position(is_target, model.max_offset)
        return draw_windows(
            is_target, first, window=config.window, next_window=config.next_window if model.variant.multi_token else 1,
            windows=config.windows_per_step, next_share=config.next_share,
        )  # fmt: skip

    def _draw_pool(self, batch: TrainingBatch, item: Tensor, is_target: Tensor) -> _Pool:
        """Draw in-batch negatives from the batch's targets, and append the random ones.

        A batch may have fewer targets than ``in_batch_negatives``. log Q is computed from the number that was drawn.
        """
        user, position = is_target.nonzero(as_tuple=True)
        drawn = torch.randperm(len(user), device=user.device)[: self.config.in_batch_negatives]
        user, position = user[drawn], position[drawn]
        random_item = self.model.represent_pins(
            batch.random_feature, batch.random_scale, self.model.id_embedding(batch.random_key)
        )
        return _Pool(
            item_key=torch.cat([batch.item_key[user, position], batch.random_key]),
            item=torch.cat([item[user, position], random_item]),
            in_batch=len(user),
        )

    def _log_q(self, item_key: Tensor, pool: _Pool) -> Tensor:
        """log Q of keys ``[n]``: the log probability that one draw of the pool is that item, float ``[n]``."""
        if not self.config.log_q:
            return torch.zeros(len(item_key), device=item_key.device)
        return pool_log_q(
            self.sketch.probability(item_key), in_batch=pool.in_batch, random=len(pool.item_key) - pool.in_batch,
            catalogue_size=self.catalogue_size,
        )  # fmt: skip

    def _excluded(
        self, batch: TrainingBatch, is_target: Tensor, targets: Targets, target_key: Tensor, pool: _Pool
    ) -> Tensor:
        """Which candidates are not negatives.

        → bool ``[B, C]``: for each user, all items of the batch that they acted on. Without ``mask_own_positives``,
        bool ``[windows, C]``: for each window, its own targets alone.
        """
        if self.config.mask_own_positives:
            owner = is_target.nonzero(as_tuple=True)[0]
            return members(owner, batch.item_key[is_target], len(is_target), pool.item_key)
        return members(targets.window, target_key, targets.num_windows, pool.item_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """The C negatives drawn for a step. The first ``in_batch`` of them are targets of the batch."""

    item_key: Tensor  # int64 [C]
    item: Tensor  # float [C, D]
    in_batch: int


def reduce_windows(loss: Tensor, window: Tensor, num_windows: int, reduction: WindowReduction) -> Tensor:
    """Losses ``[m]`` of targets, and the window of each, int64 ``[m]`` → the mean over windows, a scalar.

    A loss is −log p. The loss of a window is the mean of its targets' losses, the least of them, or −log of the mean p,
    whatever the targets are conditioned on. A batch without windows has a loss of 0.
    """

    def per_window(values: Tensor, how: str) -> Tensor:
        return values.new_zeros(num_windows).scatter_reduce(0, window, values, how, include_self=False)

    if reduction is WindowReduction.MEAN:
        reduced = per_window(loss, "mean")
    else:
        reduced = per_window(loss, "amin")
        if reduction is WindowReduction.MARGINAL:  # relative to the least loss, so that exp does not underflow
            least = reduced.detach()
            reduced = least - per_window(torch.exp(least[window] - loss), "mean").log()
    return reduced.sum() / max(1, num_windows)
