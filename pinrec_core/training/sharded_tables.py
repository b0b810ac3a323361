"""ID tables that are too large for one process: their rows are split over all processes (PinRec, model).

With P processes, row r of the tables lives on process r mod P, together with its optimiser state. A look-up asks each
owner once for every distinct row that this process needs, and the gradients of these rows travel back the same way.
Traffic and memory therefore follow the distinct rows of a process's own batch. This module knows nothing of users or
batches.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pinrec_core.errors import ConfigError, require
from pinrec_core.objective.objective import Objective
from pinrec_core.representations.id_embedding import HashedIdEmbedding, rows_of_tables


class ShardedIdEmbedding(HashedIdEmbedding):
    """This process's rows of a ``HashedIdEmbedding``. It returns the same vectors as the whole tables would.

    All processes must call ``forward`` and its backward pass together, because they exchange rows there.
    """

    def __init__(self, whole: HashedIdEmbedding, *, rank: int, count: int) -> None:
        nn.Module.__init__(self)  # the parent's __init__ would allocate the whole tables
        self.hashes, self.rows, self.width = whole.hashes, whole.rows, whole.width
        self.rank, self.count = rank, count
        self.tables = nn.Embedding.from_pretrained(
            whole.tables.weight.detach()[rank::count].clone(), freeze=False, sparse=True
        )

    def forward(self, item_key: Tensor) -> Tensor:
        """int64 ``[n]`` → float ``[n, I]``. n may differ between processes, and may be 0."""
        (n,) = item_key.shape
        row = rows_of_tables(item_key, self.hashes, self.rows)  # [K, n]
        shard_size = self.tables.num_embeddings
        # Rows are numbered shard by shard here, so sorting the distinct ones also groups them by owner.
        distinct, use = torch.unique(row % self.count * shard_size + row // self.count, return_inverse=True)
        asked = torch.bincount(distinct // shard_size, minlength=self.count)
        wanted = torch.empty_like(asked)
        dist.all_to_all_single(wanted, asked)
        # Read on the host, which must know how many rows to exchange with each process.
        to_ask, to_answer = torch.stack([asked, wanted]).tolist()
        requested = _exchange(distinct % shard_size, to_ask, to_answer)
        vector = _Answers.apply(self.tables(requested), to_answer, to_ask)  # [distinct rows, I/K]
        return F.embedding(use, vector).transpose(0, 1).reshape(n, self.width)

    @torch.no_grad()
    def whole(self) -> HashedIdEmbedding:
        """Put the tables together again, on every process."""
        shard = self.tables.weight
        shards = shard.new_empty(self.count * len(shard), shard.shape[1])
        dist.all_gather_single(shards, shard)
        whole = HashedIdEmbedding(width=self.width, hashes=self.hashes, rows=self.rows).to(shard.device)
        whole.tables.weight.copy_(shards.unflatten(0, (self.count, len(shard))).transpose(0, 1).flatten(0, 1))
        return whole


def shard_id_tables(objective: Objective, *, rank: int, count: int) -> None:
    """Keep only this process's rows of the model's ID tables, and exclude them from what DDP copies and averages.

    Raises ``ConfigError`` unless every process gets the same number of rows.
    """
    rows, hashes = objective.model.id_embedding.rows, objective.model.id_embedding.hashes
    require(hashes * rows % count == 0, "id_rows", rows, f"{hashes} tables of them to divide among {count} processes",
            error=ConfigError)  # fmt: skip
    sharded = ShardedIdEmbedding(objective.model.id_embedding, rank=rank, count=count)
    objective.model.id_embedding = sharded
    names = [name for name, parameter in objective.named_parameters() if parameter is sharded.tables.weight]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, names)


class _Answers(torch.autograd.Function):
    """Send the vectors of the requested rows to the processes that asked for them.

    The backward pass sends the gradients to the owners. It divides them by the number of processes, as DDP does with
    the gradients of all other parameters.
    """

    @staticmethod
    def forward(ctx: Any, vector: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received
        return _exchange(vector, sent, received)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        return _exchange(grad, ctx.received, ctx.sent) / len(ctx.sent), None, None


def _exchange(own: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Send ``sent[p]`` rows of ``own`` to each process p, in this order → the rows received, in order of sender."""
    answer = own.new_empty(sum(received), *own.shape[1:])
    dist.all_to_all_single(answer, own.contiguous(), received, sent)
    return answer
