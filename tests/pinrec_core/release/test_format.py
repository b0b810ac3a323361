"""Publishing and opening releases: whole or not at all, and only parts that belong together."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from pinrec_core.errors import ConfigError, ReleaseError, StorageError
from pinrec_core.files.file_writing import save_tensors
from pinrec_core.release import format as layout
from pinrec_core.release import publishing
from pinrec_core.release.current import current_release
from pinrec_core.release.format import Release
from pinrec_core.release.manifest import FILES, FORMAT, MANIFEST_FILE, HeldOut, ReleaseManifest, sha256
from pinrec_core.release.publishing import publish
from pinrec_core.representations.id_tables import IdTables, RowFormat
from pinrec_core.retrieval.catalogue_vectors import represent_catalogue
from tests.pinrec_core.conftest import indexed_model, train_tiny

TRAINING = HeldOut(evaluation_share=0.3, held_out_last=0)
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def releases(serving, dataset, tmp_path_factory) -> Path:
    """Two releases of two models, the second current."""
    folder = tmp_path_factory.mktemp("releases")
    publish(serving, dataset=dataset, releases=folder, training=TRAINING, metrics={"recall": 0.5}, now=NOW)
    other = indexed_model(train_tiny(dataset, tmp_path_factory.mktemp("other"), seed=1, epochs=1), dataset)
    publish(
        other, dataset=dataset, releases=folder, training=TRAINING, metrics={}, now=NOW + datetime.timedelta(days=1)
    )
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
    assert torch.equal(release.load_id_embedder()(keys), serving.model.id_embedding(keys).half())
    assert release.catalogue.title(0) == "item 1000"


def test_current_names_the_latest(releases):
    assert current_release(releases).name.startswith("20260103T")


@pytest.mark.parametrize(
    ("writer", "error", "part"),
    [
        ("safetensors.torch.save_file", SafetensorError("I/O error: No space left on device"), FILES["model"]),
        ("faiss.write_index", RuntimeError("write error: No space left on device"), FILES["index"]),
    ],
)
def test_a_full_disk_is_named_and_leaves_no_release(serving, dataset, tmp_path, monkeypatch, writer, error, part):
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(writer, full)
    with pytest.raises(StorageError, match=rf"{part}: cannot be written \(.*No space left on device\)"):
        publish(serving, dataset=dataset, releases=tmp_path, training=TRAINING, metrics={}, now=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", FILES.values())
def test_a_changed_byte_is_refused(copies, part):
    path = copies[0] / part
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ReleaseError, match=r"sha256 .*expected"):
        Release.open(copies[0]).verify()


@pytest.mark.parametrize("part", FILES.values())
def test_a_missing_part_is_refused(copies, part):
    (copies[0] / part).unlink()
    with pytest.raises(ReleaseError, match=rf"{part}: None bytes, expected"):
        Release.open(copies[0])


@pytest.mark.parametrize("part", ["model", "id_embedder", "index", "item_vectors"])
def test_a_part_of_another_release_is_refused_even_with_its_checksum(copies, part):
    ours, theirs = copies
    shutil.copyfile(theirs / FILES[part], ours / FILES[part])
    manifest = json.loads((ours / MANIFEST_FILE).read_text())
    foreign = json.loads((theirs / MANIFEST_FILE).read_text())["parts"][part]
    (ours / MANIFEST_FILE).write_text(json.dumps(with_part(manifest, part, foreign)))
    with pytest.raises(ReleaseError, match=rf"parts.{part}.space='.*': expected '.*', the release's embedding space"):
        Release.open(ours)
    made_to_fit = foreign | {"space": manifest["embedding_space"]}
    (ours / MANIFEST_FILE).write_text(json.dumps(with_part(manifest, part, made_to_fit)))
    with pytest.raises(ReleaseError, match=r"belongs? to another"):
        Release.open(ours).verify()


def with_part(manifest: dict, name: str, part: object) -> dict:
    return manifest | {"parts": manifest["parts"] | {name: part}}


def test_a_part_that_nobody_knows_yet_is_kept_and_checked(copies):
    path = copies[0] / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    (copies[0] / "programs").mkdir()
    program = copies[0] / "programs" / "cpu.pt2"
    program.write_bytes(b"compiled")
    part = {"file": "programs/cpu.pt2", "bytes": 8, "sha256": sha256(program), "attributes": {"torch": "2.13"}}
    path.write_text(json.dumps(with_part(manifest, "compiled_generator", part)))
    release = Release.open(copies[0])
    release.verify()
    assert release.path("compiled_generator") == program
    assert release.manifest.parts["compiled_generator"].attributes == {"torch": "2.13"}
    program.write_bytes(b"Compiled")
    with pytest.raises(ReleaseError, match=r"cpu\.pt2: sha256 .*expected"):
        Release.open(copies[0]).verify()
    with pytest.raises(ReleaseError, match=r"part 'ranker' is missing, expected one of \['catalogue', 'compiled_"):
        release.path("ranker")


@pytest.mark.parametrize("file", ["", "../outside", "/etc/passwd", "a/../../b"])
def test_a_part_outside_of_the_release_is_refused(copies, file):
    path = copies[0] / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(with_part(manifest, "extra", manifest["parts"]["model"] | {"file": file})))
    with pytest.raises(ReleaseError, match=r"parts\.extra\.file=.*: expected a path within the release"):
        Release.open(copies[0])


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("index", {}, r"parts\.index\.file is missing"),
        ("index", None, r"parts\.index=None: expected a table"),
        ("model", "model.safetensors", r"parts\.model='model.safetensors': expected a table"),
    ],
)
def test_a_part_that_is_not_described_is_refused(copies, part, value, message):
    path = copies[0] / MANIFEST_FILE
    path.write_text(json.dumps(with_part(json.loads(path.read_text()), part, value)))
    with pytest.raises(ReleaseError, match=message):
        Release.open(copies[0])


def test_a_release_without_one_of_its_parts_is_refused(copies):
    path = copies[0] / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    del manifest["parts"]["index"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError, match=r"parts=\['catalogue', .*: expected \['index'\] as well"):
        Release.open(copies[0])


def test_a_device_that_is_not_there_is_refused(releases):
    with pytest.raises(ConfigError, match="device='nowhere': expected a torch device of this machine"):
        Release.open(current_release(releases)).load_model("nowhere")


def test_a_model_without_id_tables_is_released_like_any_other(dataset, tmp_path):
    folder = tmp_path / "run"
    serving = indexed_model(train_tiny(dataset, folder, epochs=1, id_width=0), dataset)
    release = publish(serving, dataset=dataset, releases=tmp_path / "releases", training=TRAINING, metrics={}, now=NOW)
    assert release.load_id_embedder()(torch.tensor([1, 2])).shape == (2, 0)


def test_int8_rows_are_an_option_of_the_release(serving, dataset, tmp_path):
    packed = dataclasses.replace(serving, embed_ids=IdTables.pack(serving.model.id_embedding, RowFormat.INT8))
    release = publish(packed, dataset=dataset, releases=tmp_path, training=TRAINING, metrics={}, now=NOW)
    keys = torch.from_numpy(np.array(release.catalogue.item_key))
    tables = release.load_id_embedder()
    assert tables.row_format is RowFormat.INT8
    assert torch.equal(tables(keys), packed.embed_ids(keys))


def test_damaged_id_tables_are_found_before_they_serve_and_their_stage_does_not_read_them_for_it(copies):
    path = copies[0] / FILES["id_embedder"]
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ReleaseError, match=r"id_embedder.* sha256 .*expected"):
        Release.open(copies[0]).load_id_embedder()
    assert Release.open(copies[0]).load_id_embedder(checked=False).width == 8


@pytest.mark.parametrize("rows", [torch.zeros(256, 4, dtype=torch.float16), torch.zeros(512, 4)], ids=["shape", "type"])
def test_id_tables_of_another_shape_or_type_are_refused(copies, rows):
    space = json.loads((copies[0] / MANIFEST_FILE).read_text())["embedding_space"]
    save_tensors({"rows": rows}, copies[0] / FILES["id_embedder"], metadata={layout.SPACE_KEY: space})
    release = Release(copies[0], ReleaseManifest.load(copies[0]))  # ``open`` would refuse a part of another size
    with pytest.raises(
        ReleaseError, match=r"rows are (float16\[256, 4\]|float32\[512, 4\]), expected uint8 or float16"
    ):
        release.load_id_embedder(checked=False)


def test_unknown_manifest_keys_and_formats_are_refused(copies):
    path = copies[0] / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"extra": 1}))
    with pytest.raises(ReleaseError, match="extra"):
        Release.open(copies[0])
    for other in (1, 2, 99, "2"):
        path.write_text(json.dumps(manifest | {"format": other}))
        with pytest.raises(
            ReleaseError, match=rf"format={other!r}: expected {FORMAT}; .* release the run again"
        ) as refused:
            Release.open(copies[0])
        assert len(str(refused.value).splitlines()) == 1


def test_a_release_of_format_1_is_refused_in_one_sentence(copies):
    """It has other keys: the format is what is named, not the first key that is missing."""
    path = copies[0] / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    old = {name: value for name, value in manifest.items() if name not in ("parts", "calibration", "training")}
    path.write_text(json.dumps(old | {"format": 1, "index": {}, "files": {}}))
    with pytest.raises(
        ReleaseError, match=rf"format=1: expected {FORMAT}; .* release the run again with `pinrec release RUN`$"
    ):
        Release.open(copies[0])


def test_an_index_below_its_recall_target_is_refused_unless_accepted(serving, dataset, tmp_path):
    poor = replace(serving, calibration=replace(serving.calibration, recall=0.48, recall_depth=98))
    arguments = {
        "dataset": dataset, "releases": tmp_path, "training": HeldOut(evaluation_share=0.1, held_out_last=0),
        "metrics": {}, "now": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    }  # fmt: skip
    with pytest.raises(ReleaseError, match=r"recall@98 of 0\.480 .* expected at least 0\.98 .*--accept-recall"):
        publish(poor, **arguments)
    assert not list(tmp_path.iterdir())
    calibration = publish(poor, **arguments, accept_recall=True).manifest.calibration
    assert (calibration.recall, calibration.recall_target) == (0.48, 0.98)


def test_a_failed_publication_leaves_no_trace(serving, dataset, releases, tmp_path, monkeypatch):
    folder = shutil.copytree(releases, tmp_path / "releases")
    before, pointer = sorted(p.name for p in folder.iterdir()), current_release(folder)
    monkeypatch.setattr(publishing, "EXPORT_TOLERANCES", {RowFormat.FP16: -1.0})
    with pytest.raises(ReleaseError, match="the export differs"):
        publish(
            serving,
            dataset=dataset,
            releases=folder,
            training=TRAINING,
            metrics={},
            now=NOW + datetime.timedelta(days=2),
        )
    assert sorted(p.name for p in folder.iterdir()) == before
    assert current_release(folder) == pointer


def test_a_release_is_never_overwritten(serving, dataset, releases):
    with pytest.raises(ReleaseError, match="exists already"):
        publish(serving, dataset=dataset, releases=releases, training=TRAINING, metrics={}, now=NOW)


def test_the_index_holds_what_the_model_makes_of_the_items(releases):
    release = Release.open(current_release(releases))
    made = represent_catalogue(release.load_model("cpu"), release.load_id_embedder(), release.catalogue, chunk=7)
    stored = release.index.vectors_of(np.arange(len(release.index)))
    np.testing.assert_allclose(made, stored, atol=layout.PROBE_TOLERANCE)


@pytest.mark.parametrize("text", ["", "../outside", "a b"])
def test_a_strange_pointer_is_refused(tmp_path, text):
    (tmp_path / "current").write_text(text)
    with pytest.raises(ReleaseError, match=r"current: release_id=.*: expected letters, digits"):
        current_release(tmp_path)
