"""A training reads the snapshot of the sequences that was current when it began, to its end."""

from __future__ import annotations

import shutil

from pinrec_core.files.held_folder import is_held
from pinrec_core.files.symbolic_link import point
from tests.pinrec_core.training.small_training import assert_equal_weights, train_small, weights


def test_a_snapshot_that_is_published_meanwhile_changes_nothing(dataset, run, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(dataset, folder)
    snapshot = folder / "signals" / "snapshots" / "20260101T000000-1"
    snapshot.mkdir(parents=True)
    (folder / "signals" / "sequences").rename(snapshot / "sequences")
    (snapshot.parent / "20260102T000000-1" / "sequences").mkdir(parents=True)  # without a user: reading it would fail
    point(folder / "signals" / "current", f"snapshots/{snapshot.name}")
    point(folder / "signals" / "sequences", "current/sequences")
    held = []

    def publish_another(progress):
        held.append(is_held(snapshot))
        point(folder / "signals" / "current", "snapshots/20260102T000000-1")

    trained = train_small(folder, tmp_path / "run", report=publish_another, report_seconds=0)
    assert_equal_weights(weights(trained.folder), weights(run.folder))
    assert held
    assert all(held)
    assert not is_held(snapshot)
