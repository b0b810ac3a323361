"""ID tables too large for one process: rows split over all of them (PinRec, model).

Row r of the tables lives on process r mod P, with its optimiser state. A look-up asks all processes for the rows of all
their batches and brings each its own; gradients go the same way back. Knows nothing of users or batches.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pinrec_core.errors import ConfigError, require
from pinrec_core.objective.objective import Objective
from pinrec_core.representations.id_embedding import HashedIdEmbedding, rows_of_tables


class ShardedIdEmbedding(HashedIdEmbedding):
    """This process's rows of a ``HashedIdEmbedding``; gives what the whole would. All processes look up together."""

    def __init__(self, whole: HashedIdEmbedding, *, rank: int, count: int) -> None:
        nn.Module.__init__(self)  # the parent's own would make whole tables
        self.hashes, self.rows, self.width = whole.hashes, whole.rows, whole.width
        self.rank, self.count = rank, count
        self.tables = nn.Embedding.from_pretrained(
            whole.tables.weight.detach()[rank::count].clone(), freeze=False, sparse=True
        )

    def forward(self, item_key: Tensor) -> Tensor:
        """int64 ``[n]`` → float ``[n, I]``; n may differ between processes."""
        (n,) = item_key.shape
        row = rows_of_tables(item_key, self.hashes, self.rows)  # [K, n]
        most = torch.tensor(n, device=row.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        asked = row.new_full((len(row), int(most)), -1)
        asked[:, :n] = row
        of_all = _gather(asked, self.count)  # [P, K, n]
        mine = (of_all >= 0) & (of_all % self.count == self.rank)
        found = torch.zeros(*of_all.shape, self.tables.embedding_dim, device=row.device)
        found[mine] = self.tables(of_all[mine] // self.count)
        parts = _SumForAsker.apply(found, self.count)  # [K, n, I/K]
        return parts[:, :n].transpose(0, 1).reshape(n, self.width)

    @torch.no_grad()
    def whole(self) -> HashedIdEmbedding:
        """The tables put together again, on every process."""
        shards = _gather(self.tables.weight, self.count)
        whole = HashedIdEmbedding(width=self.width, hashes=self.hashes, rows=self.rows).to(shards.device)
        whole.tables.weight.copy_(shards.transpose(0, 1).reshape(whole.tables.weight.shape))
        return whole


def shard_id_tables(objective: Objective, *, rank: int, count: int) -> None:
    """Keep this process's rows of the model's ID tables, outside of what DDP copies and averages.

    Raises ``ConfigError`` unless the processes' shares are equal: now, not when they are put together again.
    """
    rows, hashes = objective.model.id_embedding.rows, objective.model.id_embedding.hashes
    require(hashes * rows % count == 0, "id_rows", rows, f"{hashes} tables of them to divide among {count} processes",
            error=ConfigError)  # fmt: skip
    sharded = ShardedIdEmbedding(objective.model.id_embedding, rank=rank, count=count)
    objective.model.id_embedding = sharded
    names = [name for name, parameter in objective.named_parameters() if parameter is sharded.tables.weight]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, names)


class _SumForAsker(torch.autograd.Function):
    """Answers to P askers ``[P, …]`` → the sum over processes of those to this one. Gradients are averaged over the
    processes, as DDP averages the others."""

    @staticmethod
    def forward(ctx: Any, answers: Tensor, count: int) -> Tensor:
        ctx.count = count
        own = torch.empty_like(answers[0])
        dist.reduce_scatter_single(own, answers.flatten(0, 1))
        return own

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        return _gather(grad, ctx.count) / ctx.count, None


def _gather(own: Tensor, count: int) -> Tensor:
    """Tensors of equal shape ``[k, …]``, one per process → ``[P, k, …]``."""
    of_all = own.new_empty(count * len(own), *own.shape[1:])
    dist.all_gather_single(of_all, own.contiguous())
    return of_all.unflatten(0, (count, len(own)))
