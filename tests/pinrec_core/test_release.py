"""Publishing and opening releases: whole or not at all, and only parts that belong together."""

from __future__ import annotations

import datetime
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from pinrec_core import publishing
from pinrec_core import release as layout
from pinrec_core.errors import ConfigError, ReleaseError, StorageError
from pinrec_core.publishing import publish
from pinrec_core.release import PARTS, Release, current_release, represent_catalogue
from tests.pinrec_core.conftest import indexed_model, train_tiny

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def releases(serving, dataset, tmp_path_factory) -> Path:
    """Two releases of two models, the second current."""
    folder = tmp_path_factory.mktemp("releases")
    publish(serving, dataset=dataset, releases=folder, metrics={"recall": 0.5}, now=NOW)
    other = indexed_model(train_tiny(dataset, tmp_path_factory.mktemp("other"), seed=1, epochs=1), dataset)
    publish(other, dataset=dataset, releases=folder, metrics={}, now=NOW + datetime.timedelta(days=1))
    return folder


@pytest.fixture
def copies(releases, tmp_path) -> tuple[Path, Path]:
    """Copies of the two releases, to damage."""
    first, second = sorted(p for p in releases.iterdir() if p.is_dir())
    return shutil.copytree(first, tmp_path / first.name), shutil.copytree(second, tmp_path / second.name)


def test_a_release_gives_back_what_was_trained(releases, serving):
    release = Release.open(sorted(p for p in releases.iterdir() if p.is_dir())[0])
    release.verify()
    assert release.manifest.release_id.startswith("20260102T030405-")
    assert release.manifest.metrics == {"recall": 0.5}
    assert release.manifest.generation == serving.generation
    model = release.load_model("cpu")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, serving.model.state_dict()[name])
    keys = torch.from_numpy(np.array(release.catalogue.item_key))
    assert torch.equal(release.load_id_embedder()(keys), serving.model.id_embedding(keys))
    assert release.catalogue.title(0) == "item 1000"


def test_current_names_the_latest(releases):
    assert current_release(releases).name.startswith("20260103T")


@pytest.mark.parametrize(
    ("writer", "error", "part"),
    [
        ("safetensors.torch.save_file", SafetensorError("I/O error: No space left on device"), layout.MODEL_FILE),
        ("pathlib.Path.write_bytes", OSError(errno.ENOSPC, "No space left on device"), layout.ID_EMBEDDER_FILE),
        ("faiss.write_index", RuntimeError("write error: No space left on device"), layout.INDEX_FILE),
    ],
)
def test_a_full_disk_is_named_and_leaves_no_release(serving, dataset, tmp_path, monkeypatch, writer, error, part):
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(writer, full)
    with pytest.raises(StorageError, match=rf"{part}: cannot be written \(.*No space left on device\)"):
        publish(serving, dataset=dataset, releases=tmp_path, metrics={}, now=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", PARTS)
def test_a_changed_byte_is_refused(copies, part):
    path = copies[0] / part
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ReleaseError, match=r"sha256 .*expected"):
        Release.open(copies[0]).verify()


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_refused(copies, part):
    (copies[0] / part).unlink()
    with pytest.raises(ReleaseError, match=rf"{part}: None bytes, expected"):
        Release.open(copies[0])


@pytest.mark.parametrize("part", ["model.safetensors", "id_embedder.pt", "index.faiss"])
def test_a_part_of_another_release_is_refused_even_with_its_checksum(copies, part):
    ours, theirs = copies
    shutil.copyfile(theirs / part, ours / part)
    manifest = json.loads((ours / layout.MANIFEST_FILE).read_text())
    manifest["files"][part] = json.loads((theirs / layout.MANIFEST_FILE).read_text())["files"][part]
    (ours / layout.MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError, match="belongs to another"):
        Release.open(ours).verify()


def test_a_dataset_of_another_release_is_refused_even_with_its_checksum(copies):
    path = copies[0] / layout.DATASET_FILE
    path.write_text(path.read_text().replace('"walk"', '"other"'))
    manifest = json.loads((copies[0] / layout.MANIFEST_FILE).read_text())
    manifest["files"][layout.DATASET_FILE] = {"bytes": path.stat().st_size, "sha256": layout.sha256(path)}
    (copies[0] / layout.MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError, match="belongs to another"):
        Release.open(copies[0]).verify()


def test_a_manifest_without_a_parts_size_is_refused(copies):
    path = copies[0] / layout.MANIFEST_FILE
    manifest = json.loads(path.read_text())
    manifest["files"]["index.faiss"] = {}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError, match="not readable as a release manifest"):
        Release.open(copies[0])


def test_a_device_that_is_not_there_is_refused(releases):
    with pytest.raises(ConfigError, match="device='nowhere': expected a torch device of this machine"):
        Release.open(current_release(releases)).load_model("nowhere")


def test_a_model_without_id_tables_is_released_like_any_other(dataset, tmp_path):
    folder = tmp_path / "run"
    serving = indexed_model(train_tiny(dataset, folder, epochs=1, id_width=0), dataset)
    release = publish(serving, dataset=dataset, releases=tmp_path / "releases", metrics={}, now=NOW)
    assert release.load_id_embedder()(torch.tensor([1, 2])).shape == (2, 0)


def test_unknown_manifest_keys_and_formats_are_refused(copies):
    path = copies[0] / layout.MANIFEST_FILE
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"extra": 1}))
    with pytest.raises(ReleaseError, match="extra"):
        Release.open(copies[0])
    path.write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ReleaseError, match="format=99: expected 1"):
        Release.open(copies[0])


def test_a_failed_publication_leaves_no_trace(serving, dataset, releases, tmp_path, monkeypatch):
    folder = shutil.copytree(releases, tmp_path / "releases")
    before, pointer = sorted(p.name for p in folder.iterdir()), current_release(folder)
    monkeypatch.setattr(publishing, "EXPORT_TOLERANCE", -1.0)
    with pytest.raises(ReleaseError, match="the export differs"):
        publish(serving, dataset=dataset, releases=folder, metrics={}, now=NOW + datetime.timedelta(days=2))
    assert sorted(p.name for p in folder.iterdir()) == before
    assert current_release(folder) == pointer


def test_a_release_is_never_overwritten(serving, dataset, releases):
    with pytest.raises(ReleaseError, match="exists already"):
        publish(serving, dataset=dataset, releases=releases, metrics={}, now=NOW)


def test_the_index_holds_what_the_model_makes_of_the_items(releases):
    release = Release.open(current_release(releases))
    made = represent_catalogue(release.load_model("cpu"), release.load_id_embedder(), release.catalogue, chunk=7)
    stored = release.index.reconstruct(np.arange(len(release.index)))
    np.testing.assert_allclose(made, stored, atol=layout.PROBE_TOLERANCE)


@pytest.mark.parametrize("text", ["", "../outside", "a b"])
def test_a_strange_pointer_is_refused(tmp_path, text):
    (tmp_path / "current").write_text(text)
    with pytest.raises(ReleaseError, match="is not a release id"):
        current_release(tmp_path)
