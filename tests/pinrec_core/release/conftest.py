"""A release to copy, and folders of copies."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pinrec_core.release.current import point_current
from pinrec_core.release.format import Release
from pinrec_core.release.manifest import MANIFEST_FILE, HeldOut
from pinrec_core.release.publishing import publish

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="session")
def published(serving, dataset, tmp_path_factory) -> Release:
    """A release that no test changes."""
    return publish(
        serving, dataset=dataset, releases=tmp_path_factory.mktemp("published"), now=NOW,
        metrics={"protocol": "held-out", "k": 10, "num_items": 100, "served_recall": 0.5},
        training=HeldOut(evaluation_share=0.3, held_out_last=0),
    )  # fmt: skip


@pytest.fixture
def copies(published, tmp_path) -> Callable[..., Path]:
    """Makes a folder of releases with copies under these names, the first one the oldest by days; each is made current
    in turn, as if it had been published."""

    def make(names: Sequence[str], *, pointed: bool = True) -> Path:
        releases = tmp_path / "releases"
        for age, name in enumerate(reversed(names)):
            shutil.copytree(published.folder, releases / name)
            edit_manifest(releases / name, release_id=name, created_at=(NOW - datetime.timedelta(days=age)).isoformat())
        for name in names if pointed else ():
            point_current(releases, name)
        return releases

    return make


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change fields of a manifest."""
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
