"""A release with a compiled generator: it serves where it fits, and elsewhere the plain model does."""

from __future__ import annotations

import datetime
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from pinrec_core.errors import ConfigError, ReleaseError
from pinrec_core.generation.inputs import embedded_histories, request_context
from pinrec_core.generation.planning import merged
from pinrec_core.generation.program import COSINE_TOLERANCE, Products
from pinrec_core.release import programs
from pinrec_core.release.compiling import add_program, check_served_recall, compile_for_this_machine
from pinrec_core.release.extending import extend
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import MANIFEST_FILE, HeldOut, Part
from pinrec_core.release.programs import PROGRAM, fitting_program, load_program, local_folder
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
    folder = tmp_path_factory.mktemp("program")
    return publish(
        serving, dataset=dataset, releases=tmp_path_factory.mktemp("compiled"), metrics={}, now=NOW,
        training=HeldOut(evaluation_share=0.3, held_out_last=0),
        program=(folder, add_program(serving, folder, search=False)),
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
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["parts"][PROGRAM]["attributes"] |= attributes
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return Release.open(folder)


def test_the_program_generates_what_the_model_does(compiled, serving):
    compiled.verify()
    run = load_program(compiled)
    for asked in (requests(serving), requests(serving)[:1]):
        history = embedded_histories(serving.model, serving.embed_ids, asked)
        made = run(history, request_context(asked, serving.generation, device="cpu"))
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
    context = request_context(asked, serving.generation, device="cpu")
    expected, _ = merged(serving.generate(asked), serving.generation)
    assert stage.generate(history, context)[0].equal(expected)


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


def test_products_that_the_processor_is_not_made_for_are_refused(serving, tmp_path, monkeypatch):
    monkeypatch.setattr("pinrec_core.release.compiling.has_compiler", lambda: True)
    monkeypatch.setattr("pinrec_core.release.compiling.fast_products", lambda: (Products.BF16,))
    with pytest.raises(ConfigError, match=r"products='int8': expected one of \['bf16'\] here"):
        add_program(serving, tmp_path, Products.INT8)


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here, whose layouts these are"
)
def test_weights_are_laid_out_when_the_program_is_made(compiled):
    """Inductor leaves that out without a word where gradients are enabled; products then take up to twice as long."""
    with zipfile.ZipFile(compiled.path(PROGRAM)) as package:
        (code,) = [package.read(name) for name in package.namelist() if name.endswith(".wrapper.cpp")]
    assert b"linear_pointwise" in code


def test_a_program_that_serves_less_recall_is_refused():
    check_served_recall(compiled={"served_recall": 0.3990}, plain={"served_recall": 0.4})
    check_served_recall(compiled={"ndcg": 0.1}, plain={"ndcg": 0.2})  # an evaluation that serves no lists
    with pytest.raises(ReleaseError, match=r"serves a recall of 0.3900, the plain one 0.4000: expected at most 0.5%"):
        check_served_recall(compiled={"served_recall": 0.39}, plain={"served_recall": 0.4})


def test_what_is_judged_in_process_is_what_serves(compiled, serving):
    """A release answers with its program: its embeddings are those, to the bit, and not the plain model's."""
    asked = requests(serving)
    history = embedded_histories(serving.model, serving.embed_ids, asked)
    made = load_program(compiled)(history, request_context(asked, serving.generation, device="cpu"))
    assert IndexedModel.from_release(compiled).generate(asked).equal(made)


@pytest.fixture
def local(compiled, tmp_path, monkeypatch) -> Release:
    """A release without a program, and beside it one that was compiled here: that of ``compiled``, to compile once."""
    folder = shutil.copytree(compiled.folder, tmp_path / compiled.folder.name)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    own = manifest["parts"].pop(PROGRAM)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    made = (folder / own["file"]).rename(tmp_path / "made.pt2")

    def add(_: object, into: Path) -> Part:
        shutil.copyfile(made, into / own["file"])
        return Part.of(into, own["file"], attributes=own["attributes"])

    monkeypatch.setattr("pinrec_core.release.compiling.add_program", add)
    release = Release.open(folder)
    assert load_program(release) is None
    assert compile_for_this_machine(release) == local_folder(release)
    return release


def test_a_program_that_was_compiled_beside_the_releases_serves_and_the_release_stays_as_it_was(local, serving):
    assert PROGRAM not in Release.open(local.folder).manifest.parts
    asked = requests(serving)
    history = embedded_histories(serving.model, serving.embed_ids, asked)
    made = load_program(local)(history, request_context(asked, serving.generation, device="cpu"))
    assert float((1 - (made * serving.generate(asked)).sum(-1)).max()) < COSINE_TOLERANCE
    parameters = StageParameters(
        release=local.folder, signals=local.folder, realtime=None, device="cpu", threads=1, compiled=False
    )
    context = request_context(asked, serving.generation, device="cpu")
    embedding, _ = GeneratorStage(parameters).generate(history, context)
    assert embedding.equal(merged(serving.generate(asked), serving.generation)[0])


def test_a_program_beside_the_releases_is_found_by_machine_and_release(local, monkeypatch, caplog):
    assert fitting_program(local) is not None
    manifest = local.folder / MANIFEST_FILE
    manifest.write_text(manifest.read_text() + "\n")  # another release under the same name
    assert fitting_program(local) is None
    assert "compiled from another release of this name" in caplog.text
    monkeypatch.setattr(programs, "processor", lambda: "another")
    assert not local_folder(local).exists()
    assert fitting_program(local) is None


def test_a_damaged_program_beside_the_releases_is_refused(local):
    path, _ = fitting_program(local)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ReleaseError, match=r"generator_program.pt2: sha256 .*, expected .*; the file was changed"):
        load_program(local)
    (path.parent / programs.LOCAL_MANIFEST).write_text("{}")
    with pytest.raises(ReleaseError, match=r"program.json: .*missing"):
        load_program(local)


def test_a_program_goes_on_to_a_release_of_a_newer_catalogue(compiled, serving, dataset, tmp_path):
    made = extend(
        compiled, IndexedModel.from_release(compiled), dataset=dataset, releases=tmp_path, metrics={}, now=NOW,
        accept_recall=True,
    )  # fmt: skip
    asked = requests(serving)
    expected = IndexedModel.from_release(compiled).generate(asked)
    assert fitting_program(made)[0].samefile(compiled.path(PROGRAM))
    assert IndexedModel.from_release(made).generate(asked).equal(expected)


def test_a_process_that_runs_a_program_does_without_the_compiler(compiled):
    """The compiler's modules are 70 MiB of every process that imports them."""
    code = (
        "import sys; from pathlib import Path; from pinrec_core.stages.base import StageParameters; "
        "from pinrec_core.stages.generator import GeneratorStage; folder = Path(sys.argv[1]); "
        "GeneratorStage(StageParameters(release=folder, signals=folder, realtime=None, device='cpu', threads=1, "
        "compiled=sys.argv[2] == 'compiled')); "
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
    )
    for which in ("compiled", "plain"):
        done = subprocess.run([sys.executable, "-c", code, compiled.folder, which], capture_output=True, text=True)
        assert done.stdout.strip() == "[]", done.stderr
