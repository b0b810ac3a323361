"""Fixtures for tests that prepare a ``small_log``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pinrec_core.preparation.prepare import prepare_dataset
from pinrec_core.preparation.schema import DatasetSpec
from tests.pinrec_core.preparation.small_log import ITEMS, NOW, SPEC, Prepared, write_parquet


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def run(log: Path, tmp_path: Path) -> Callable[..., Prepared]:
    """A function that prepares the files in ``log``. It first writes ``events`` and ``items`` there, as Parquet."""

    def prepare(
        events: Sequence[Mapping[str, Any]] | None = None,
        items: Sequence[Mapping[str, Any]] | None = ITEMS,
        spec: DatasetSpec = SPEC,
    ) -> Prepared:
        if events is not None:
            write_parquet(log / "events.parquet", events)
        if items is not None and spec.items is not None and not list(log.glob("items.*")):
            write_parquet(log / "items.parquet", items)
        report = prepare_dataset(spec, log, tmp_path / "out", now=NOW, overwrite=True)
        return Prepared(tmp_path / "out", report)

    return prepare
