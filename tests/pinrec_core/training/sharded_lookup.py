"""One of several processes that ``torchrun`` started, which look keys up in sharded ID tables.

Each process writes its vectors, the gradient of its shard, and how many elements each exchange received and sent.
"""

from __future__ import annotations

import sys
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from pinrec_core.representations.id_embedding import HashedIdEmbedding
from pinrec_core.training.sharded_tables import ShardedIdEmbedding

WIDTH, HASHES, ROWS = 6, 3, 16
KEYS = {
    # The keys that each of three processes looks up, by the name of the case.
    "repeats": ([7, 7, 8, 7, 9, 8], [], [8, 5]),
    "one_asks": ([], [3, 4, 3], []),
    "nobody_asks": ([], [], []),
    "one_item": ([11] * 500, [11] * 300, [12]),
}


def whole_tables() -> HashedIdEmbedding:
    torch.manual_seed(0)
    return HashedIdEmbedding(width=WIDTH, hashes=HASHES, rows=ROWS)


def loss_of(vectors: Tensor) -> Tensor:
    """A loss that gives every element of every vector another gradient."""
    return (vectors * torch.arange(1, vectors.numel() + 1).view_as(vectors)).sum()


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    dist.init_process_group("gloo")
    rank, count = dist.get_rank(), dist.get_world_size()
    exchanged: list[int] = []
    all_to_all = dist.all_to_all_single

    def counted(output: Tensor, own: Tensor, *splits: list[int]) -> None:
        exchanged.extend([output.numel(), own.numel()])
        all_to_all(output, own, *splits)

    dist.all_to_all_single = counted
    for name, keys in KEYS.items():
        sharded = ShardedIdEmbedding(whole_tables(), rank=rank, count=count)
        vectors = sharded(torch.tensor(keys[rank], dtype=torch.int64))
        loss_of(vectors).backward()
        gradient = sharded.tables.weight.grad
        assert gradient is not None
        assert gradient.is_sparse
        left = {"vectors": vectors, "gradient": gradient.to_dense(), "exchanged": torch.tensor(exchanged)}
        left["whole"] = sharded.whole().tables.weight
        safetensors.torch.save_file({key: value.detach() for key, value in left.items()}, out / f"{name}-{rank}")
        exchanged.clear()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
