"""ID tables split over three processes: they give and learn the same as whole tables, and exchange each row once."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from pinrec_core.config.sections import ObjectiveConfig, Variant
from pinrec_core.errors import ConfigError
from pinrec_core.objective.objective import Objective
from pinrec_core.representations.id_embedding import rows_of_tables
from pinrec_core.training.sharded_tables import shard_id_tables
from tests.pinrec_core.builders import tiny_model
from tests.pinrec_core.training.sharded_lookup import HASHES, KEYS, ROWS, WIDTH, loss_of, whole_tables
from tests.pinrec_core.training.torchrun import torchrun

PROCESSES = 3


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("three")
    torchrun("-m", "tests.pinrec_core.training.sharded_lookup", out, processes=PROCESSES, seconds=120)
    return out


def of_all(out: Path, name: str) -> list[dict[str, torch.Tensor]]:
    return [safetensors.torch.load_file(out / f"{name}-{rank}") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", KEYS)
def test_split_tables_give_the_vectors_and_gradients_of_whole_ones(looked_up, name):
    """With repeated keys, and with processes that have no key at all."""
    whole = whole_tables()
    found = of_all(looked_up, name)
    for left, keys in zip(found, KEYS[name], strict=True):
        vectors = whole(torch.tensor(keys, dtype=torch.int64))
        assert torch.equal(left["vectors"], vectors)
        assert torch.equal(left["whole"], whole.tables.weight)
        (loss_of(vectors) / PROCESSES).backward()  # the mean over processes, as of all other parameters
    expected = whole.tables.weight.grad.to_dense()
    for rank, left in enumerate(found):
        # Sums of at most 800 float32 numbers in another order.
        torch.testing.assert_close(left["gradient"], expected[rank::PROCESSES], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", KEYS)
def test_each_process_exchanges_its_distinct_rows_alone(looked_up, name):
    """A look-up exchanges counts, row numbers and vectors, and its backward pass gradients. Their sizes follow from the
    distinct rows that a process asks for and answers, however often a key occurs."""
    rows = [rows_of_tables(torch.tensor(keys, dtype=torch.int64), HASHES, ROWS).unique() for keys in KEYS[name]]
    for rank, left in enumerate(of_all(looked_up, name)):
        asked = len(rows[rank])
        answered = sum(int((row % PROCESSES == rank).sum()) for row in rows)
        width = WIDTH // HASHES
        assert left["exchanged"].view(4, 2).tolist() == [
            [PROCESSES, PROCESSES],
            [answered, asked],
            [asked * width, answered * width],
            [answered * width, asked * width],
        ]


def test_tables_that_cannot_be_divided_evenly_are_refused_before_training():
    """Look-ups would work, but the tables could not be put together after the last epoch."""
    objective = Objective(tiny_model(Variant.OC), ObjectiveConfig(), catalogue_size=120)
    with pytest.raises(ConfigError, match=r"id_rows=\d+: expected 2 tables of them to divide among 3 processes"):
        shard_id_tables(objective, rank=0, count=3)
