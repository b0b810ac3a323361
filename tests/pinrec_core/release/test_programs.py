"""A release with a compiled generator: it serves where it fits, and elsewhere the plain model does."""

from __future__ import annotations

import datetime
import json
import logging
import shutil

import pytest

from pinrec_core.errors import ConfigError, ReleaseError
from pinrec_core.generation.inputs import embedded_histories, request_context
from pinrec_core.release import format as layout
from pinrec_core.release.format import HeldOut, Release
from pinrec_core.release.programs import COSINE_TOLERANCE, PROGRAM, add_program, load_program
from pinrec_core.request import Request
from pinrec_core.stages.base import StageParameters
from pinrec_core.stages.generator import GeneratorStage
from tests.pinrec_core.builders import random_history

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def compiled(serving, dataset, tmp_path_factory) -> Release:
    from pinrec_core.release.publishing import publish

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler (g++ or clang++): nothing can be compiled")
    return publish(
        serving, dataset=dataset, releases=tmp_path_factory.mktemp("compiled"), metrics={}, now=NOW,
        training=HeldOut(evaluation_share=0.3, held_out_last=0), compile_generator=True,
    )  # fmt: skip


def requests(serving) -> list[Request]:
    return [
        Request(
            history=random_history(length, length), surface=1, time=1_650_000_000, seed=length, num_items=20,
            budget=serving.default_budget,
        )
        for length in (0, 5, 24, 1, 17)
    ]  # fmt: skip


def copy_with(compiled: Release, folder, **attributes: str) -> Release:
    """A copy of the release whose program says that it was compiled for another machine."""
    shutil.copytree(compiled.folder, folder)
    manifest = json.loads((folder / layout.MANIFEST_FILE).read_text())
    manifest["parts"][PROGRAM]["attributes"] |= attributes
    (folder / layout.MANIFEST_FILE).write_text(json.dumps(manifest))
    return Release.open(folder)


def test_the_program_generates_what_the_model_does(compiled, serving):
    compiled.verify()
    run = load_program(compiled)
    for asked in (requests(serving), requests(serving)[:1]):
        history = embedded_histories(serving.model, serving.embed_ids, asked)
        made = run(history, request_context(asked, steps=serving.generation.steps, device="cpu"))
        assert float((1 - (made * serving.generate(asked)).sum(-1)).max()) < COSINE_TOLERANCE


@pytest.mark.parametrize("name", ["processor", "torch"])
def test_on_another_machine_the_plain_model_serves_after_one_warning(compiled, serving, tmp_path, caplog, name):
    release = copy_with(compiled, tmp_path / "copy", **{name: "another"})
    parameters = StageParameters(release=release.folder, signals=tmp_path, realtime=None, device="cpu", threads=1)
    with caplog.at_level(logging.WARNING):
        stage = GeneratorStage(parameters)
    (record,) = [record for record in caplog.records if "uncompiled" in record.message]
    assert f"{{'{name}': 'another'}}" in record.message
    asked = requests(serving)
    history = embedded_histories(serving.model, serving.embed_ids, asked)
    context = request_context(asked, steps=serving.generation.steps, device="cpu")
    assert stage.generate(history, context)[0].equal(serving.generate(asked))


def test_a_damaged_program_is_refused(compiled, tmp_path):
    release = copy_with(compiled, tmp_path / "copy")
    path = release.folder / release.manifest.parts[PROGRAM].file
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ReleaseError, match=r"generator_program.pt2: sha256 .*, expected .*; the file was changed"):
        load_program(release)


def test_without_a_compiler_one_sentence_says_so(serving, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"expected a C\+\+ compiler \(g\+\+ or clang\+\+\) on the PATH"):
        add_program(serving, tmp_path)
