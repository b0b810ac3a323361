"""A model whose offsets are times: from the training to the release that serves it."""

from __future__ import annotations

import datetime

import torch

from pinrec_core.release.format import Release
from pinrec_core.release.manifest import HeldOut
from pinrec_core.release.publishing import publish
from pinrec_core.training.run import Run
from tests.pinrec_core.conftest import EVALUATION_SHARE, indexed_model, train_tiny
from tests.pinrec_core.training.small_training import weights

HOURS = (0, 3_600, 7_200, 86_400)  # in the log of these tests an interaction follows after 60 to 9,000 seconds


def test_offsets_in_time_are_trained_on_and_released(dataset, tmp_path):
    timed = train_tiny(dataset, tmp_path / "run", offset_seconds=HOURS)
    assert Run.load(timed.folder).model.offset_seconds == HOURS
    first, *_, last = [epoch["loss"] for epoch in timed.metrics["epochs"]]
    assert last < first
    serving = indexed_model(timed, dataset)
    assert set(serving.generation.offsets) > {1}  # the embeddings of a step are those of several times
    release = publish(
        serving, dataset=dataset, releases=tmp_path / "releases", metrics={}, accept_recall=True,
        training=HeldOut(evaluation_share=EVALUATION_SHARE, held_out_last=0), now=datetime.datetime.now(datetime.UTC),
    )  # fmt: skip
    assert Release.open(release.folder).manifest.model.offset_seconds == HOURS


def test_times_decide_what_the_windows_hold(dataset, tmp_path):
    """All else is equal, the seed as well, so only what the windows hold can make a difference."""
    position = weights(train_tiny(dataset, tmp_path / "positions", epochs=1).folder)
    time = weights(train_tiny(dataset, tmp_path / "times", epochs=1, offset_seconds=HOURS).folder)
    assert not torch.equal(time["model.head.out.weight"], position["model.head.out.weight"])
