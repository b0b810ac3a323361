"""The made-up release of the benchmark of large ID tables is one that the stage opens."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from benchmarks import bench_id_tables
from id_embedder.stage import IdEmbedderStage
from pinrec_core.release.manifest import HeldOut
from pinrec_core.release.publishing import publish
from pinrec_core.representations.id_tables import RowFormat
from pinrec_core.stages.base import StageParameters
from tests.pinrec_core.conftest import dataset, run, serving

__all__ = ["dataset", "run", "serving"]


@pytest.mark.parametrize("row_format", list(RowFormat))
def test_the_stage_serves_the_made_up_tables(serving, dataset, tmp_path, row_format):
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    training = HeldOut(evaluation_share=0.3, held_out_last=0)
    source = publish(serving, dataset=dataset, releases=tmp_path / "a", training=training, metrics={}, now=now)
    (tmp_path / "b").mkdir()
    size = bench_id_tables.make_release(source, tmp_path / "b", 64, row_format)
    assert size == (tmp_path / "b" / "id_embedder.safetensors").stat().st_size
    parameters = StageParameters(
        release=tmp_path / "b", signals=dataset / "signals", realtime=None, device="cpu", threads=1
    )
    (answer,) = IdEmbedderStage(parameters).run([np.arange(7)])
    width = bench_id_tables.HASHES * bench_id_tables.ROW_WIDTH
    assert answer["history_id_embedding"].shape == (7, width)
    assert answer["history_id_embedding"].dtype == np.float16
