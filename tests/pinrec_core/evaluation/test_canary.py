"""No future item leaks: an item placed after the cut changes no input, no hidden state and no prediction."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import SEQUENCES
from pinrec_core.evaluation.cases import held_out_cases, leave_one_out_cases
from pinrec_core.generation.inputs import embedded_histories
from pinrec_core.history import DTYPES
from pinrec_core.model.collate import collate, pad
from tests.pinrec_core.conftest import EVALUATION_SHARE

Z = 4


@pytest.fixture(scope="module")
def with_canary(dataset, tmp_path_factory) -> Path:
    """The log with one more interaction at every user's end: the last but one target again, with everything else
    about it strange. The distinct items and their last positions but that one's are as before."""
    folder = shutil.copytree(dataset, tmp_path_factory.mktemp("canary") / "dataset")
    part = folder / SEQUENCES / "part-0.parquet"
    table = pq.read_table(part)
    rows = table.to_pylist()
    for row in rows:
        row["item_key"].append(row["item_key"][-1])
        row["item_type"].append(0)
        row["outcome"].append(2)
        row["surface"].append(3)
        row["timestamp"].append(row["timestamp"][-1] + 10**6)
        row["feature"].append(bytes([127] * len(row["feature"][-1])))
        row["scale"].append(1.0)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
    return folder


def streams(folder: Path, catalogue: ItemCatalogue, from_end: int) -> dict:
    options = {"share": EVALUATION_SHARE, "targets": Z}
    return {
        "held-out": list(held_out_cases(folder, catalogue, **options)),
        "cold": list(held_out_cases(folder, catalogue, cold=True, **options)),
        "leave-one-out": list(leave_one_out_cases(folder, catalogue, from_end=from_end)),
    }


def test_a_canary_after_the_cut_changes_nothing_that_a_model_is_given(dataset, with_canary, subject):
    catalogue = ItemCatalogue.open(dataset)
    # The canary is the last place, so what was the last item is the second last: the same cut.
    plain, canary = streams(dataset, catalogue, from_end=1), streams(with_canary, catalogue, from_end=2)
    for name in plain:
        assert len(plain[name]) > 20
        for before, after in zip(plain[name], canary[name], strict=True):
            assert before.user_id == after.user_id
            for field in DTYPES:
                np.testing.assert_array_equal(getattr(before.history, field), getattr(after.history, field))
            np.testing.assert_array_equal(before.seen_row, after.seen_row)
            first, second = before.request(), after.request()
            assert (first.time, first.surface, first.seed) == (second.time, second.surface, second.seed)
            assert before.history.timestamp.max(initial=0) <= before.request_time
        for side in (plain, canary):
            side[name] = subject.indexed.generate([case.request(subject.budget) for case in side[name][:32]])
        assert torch.equal(plain[name], canary[name]), name


def test_hidden_states_do_not_see_what_comes_after_them(subject, cases):
    model = subject.indexed.model
    histories = [case.history.take(slice(0, 12)) for case in cases if len(case.history) >= 12][:8]
    changed = []
    for history in histories:
        other = history.take(np.arange(12))  # a copy
        other.item_key[8:] += 1
        other.feature[8:] = 127
        other.surface[8:] = 3
        other.outcome[8:] = 0
        other.timestamp[8:] += 10**6
        changed.append(other)
    hidden = []
    with torch.inference_mode():
        for side in (histories, changed):
            ids = subject.indexed.embed_ids(pad([h.item_key for h in side]).flatten()).unflatten(0, (len(side), 12))
            hidden.append(model(replace(collate(side), id_embedding=ids))[0])
    # State t has seen t items: states 0 to 8 saw none of those that were changed. Bit for bit: the same batch shape.
    assert torch.equal(hidden[0][:, :9], hidden[1][:, :9])
    assert (hidden[0][:, 9:] - hidden[1][:, 9:]).abs().amax(dim=(1, 2)).min() > 1e-3


def test_the_batch_of_a_case_ends_with_its_history(subject, cases):
    limit = subject.indexed.model.config.max_history
    requests = [case.request() for case in cases[:5]]
    batch = embedded_histories(subject.indexed.model, subject.indexed.embed_ids, requests)
    for b, case in enumerate(cases[:5]):
        last = batch.layout.last[b]
        assert batch.layout.position[last] == min(len(case.history), limit)
        assert batch.timestamp[last] == case.history.timestamp[-1]
