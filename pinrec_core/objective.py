"""Targets and loss of one training step: next-token (eq. 3) and windowed multi-token (eq. 5), outcome-conditioned.

Hidden state t of a user predicts the item at offset δ ≥ 1, which is item t + δ − 1 counting from 0. For a multi-token
variant δ is drawn uniformly from 1..Δmax and every item of the window [δ, δ + W) is a target; otherwise δ = W = 1.
Each target conditions the head on its own outcome. Queries are context: they are never targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pinrec_core.config import ModelConfig, ObjectiveConfig, WindowReduction
from pinrec_core.count_min_sketch import CountMinSketch
from pinrec_core.history import NO_OUTCOME
from pinrec_core.model import HistoryBatch, PinRec
from pinrec_core.sampled_softmax import Candidates, members_of_own_history, pool_log_q, sampled_softmax_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """Histories with what only training needs: keys (for masks and the sketch) and outcomes (the conditioning)."""

    history: HistoryBatch
    item_key: Tensor  # int64 [B, T]
    outcome: Tensor  # int64 [B, T], NO_OUTCOME for queries
    random_key: Tensor  # int64 [R]: items drawn uniformly from the catalogue
    random_feature: Tensor  # int8 [R, F]
    random_scale: Tensor  # float [R]


class Objective(nn.Module):
    """The loss, its learned temperature and its sketch."""

    def __init__(self, model: ModelConfig, config: ObjectiveConfig, *, catalogue_size: int) -> None:
        super().__init__()
        self.config = config
        self.outcome_conditioned = model.variant.outcome_conditioned
        self.max_offset = model.max_offset
        self.window = config.window if model.variant.multi_token else 1
        self.catalogue_size = catalogue_size
        self.log_inverse_temperature = nn.Parameter(torch.tensor(-math.log(config.init_temperature)))
        self.sketch = CountMinSketch(width=config.sketch_width, depth=config.sketch_depth)

    @property
    def inverse_temperature(self) -> Tensor:
        """λ, capped."""
        return self.log_inverse_temperature.clamp(max=math.log(self.config.max_inverse_temperature)).exp()

    @torch.no_grad()
    def cap_temperature(self) -> None:
        """Bring λ back to its cap after a step: above it the gradient is zero, and λ could not come down again."""
        self.log_inverse_temperature.clamp_(max=math.log(self.config.max_inverse_temperature))

    def forward(self, model: PinRec, batch: TrainingBatch) -> Tensor:
        """The mean loss over the windows drawn from the batch: a scalar."""
        T = batch.item_key.shape[1]
        hidden, item = model(batch.history)
        is_target = (torch.arange(T, device=item.device) < batch.history.length.unsqueeze(1)) & (
            batch.outcome != NO_OUTCOME
        )
        self.sketch.update(batch.item_key[is_target])

        candidates, log_q = self._candidates(model, batch, item, is_target)
        own = members_of_own_history(batch.item_key, is_target, candidates.item_key)  # [B, C]

        user, position, offset = self._draw_windows(is_target)
        target = (
            position.unsqueeze(1) + offset.unsqueeze(1) - 1 + torch.arange(self.window, device=item.device)
        )  # [n, W]
        inside = target < T
        target = target.clamp(max=T - 1)
        valid = inside & is_target[user.unsqueeze(1), target]
        # One row per valid (window, target) pair.
        window, slot = valid.nonzero(as_tuple=True)
        user_of, target_of = user[window], target[window, slot]
        outcome = batch.outcome[user_of, target_of] if self.outcome_conditioned else torch.zeros_like(window)
        positive_key = batch.item_key[user_of, target_of]
        loss = sampled_softmax_loss(
            model.head(hidden[user_of, position[window]], outcome, offset[window]),
            item[user_of, target_of],
            positive_key,
            log_q(positive_key),
            candidates,
            own[user_of],
            self.inverse_temperature,
        )
        return reduce_windows(loss, window, len(user), self.config.window_reduction)

    def _draw_windows(self, is_target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Users, positions and offsets, int64 ``[n]`` each, of windows that hold at least one target."""
        B, T = is_target.shape
        offset = torch.randint(1, self.max_offset + 1, (B, T), device=is_target.device)
        seen = torch.nn.functional.pad(is_target.cumsum(1), (1, 0))  # [B, T + 1]: targets before each position
        first = (torch.arange(T, device=is_target.device) + offset - 1).clamp(max=T)
        last = (first + self.window).clamp(max=T)
        user, position = (seen.gather(1, last) > seen.gather(1, first)).nonzero(as_tuple=True)
        keep = torch.randperm(len(user), device=user.device)[: max(1, self.config.queries_per_step // self.window)]
        user, position = user[keep], position[keep]
        return user, position, offset[user, position]

    def _candidates(
        self, model: PinRec, batch: TrainingBatch, item: Tensor, is_target: Tensor
    ) -> tuple[Candidates, Callable[[Tensor], Tensor]]:
        """In-batch negatives drawn from the batch's targets, then the random ones; and log Q of that pool.

        A small batch has fewer targets than in-batch negatives are wanted: log Q follows what was drawn.
        """
        user, position = is_target.nonzero(as_tuple=True)
        drawn = torch.randperm(len(user), device=user.device)[: self.config.in_batch_negatives]
        user, position = user[drawn], position[drawn]
        random_item = model.represent_pins(
            batch.random_feature, batch.random_scale, model.id_embedding(batch.random_key)
        )
        item_key = torch.cat([batch.item_key[user, position], batch.random_key])

        def log_q(key: Tensor) -> Tensor:
            return pool_log_q(
                self.sketch.probability(key),
                in_batch=len(user),
                random=len(batch.random_key),
                catalogue_size=self.catalogue_size,
            )

        item = torch.cat([item[user, position], random_item])
        return Candidates(item=item, item_key=item_key, log_q=log_q(item_key)), log_q


def reduce_windows(loss: Tensor, window: Tensor, num_windows: int, reduction: WindowReduction) -> Tensor:
    """Losses ``[n]`` of targets and the window each belongs to, int64 ``[n]`` → the mean over windows, a scalar.

    Within a window either the mean over its targets or the target of least loss counts. No window at all (a batch of
    very short histories and offsets beyond their ends) is a loss of 0.
    """
    how = "amin" if reduction is WindowReduction.MIN else "mean"
    per_window = loss.new_zeros(num_windows).scatter_reduce(0, window, loss, how, include_self=False)
    return per_window.sum() / max(1, num_windows)
