"""A release that was made elsewhere serves, or the reason why not is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pinrec_core.errors import ReleaseError
from pinrec_core.release import machine as here
from pinrec_core.release.format import Release
from pinrec_core.release.in_use import using_release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.machine import Machine
from pinrec_core.release.manifest import FORMAT, MANIFEST_FILE, Part
from pinrec_core.release.portability import check_on_this_machine, check_serves_here, memory_needed
from pinrec_core.release.programs import FILE, PROGRAM, fit_of_this_machine
from pinrec_core.release.sample_requests import sample_requests
from pinrec_core.validation import to_plain
from tests.pinrec_core.release.conftest import edit_manifest


@pytest.fixture
def copy(published, tmp_path):
    """The release under another path, in folders that nobody may write to."""
    folder = shutil.copytree(published.folder, tmp_path / "elsewhere" / published.folder.name)
    yield folder
    folder.parent.chmod(0o755)
    folder.chmod(0o755)


def texts(folder, **machine) -> list[str]:
    return [str(finding) for finding in check_on_this_machine(folder, replace(Machine.here(), **machine))]


def test_a_read_only_copy_under_another_path_answers_as_the_release_does(published, copy):
    for path in (*copy.iterdir(), copy, copy.parent):
        path.chmod(0o444 if path.is_file() else 0o555)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in copy.iterdir())
    assert check_on_this_machine(copy) == []
    with using_release(copy):
        release = Release.open(copy)
        release.verify()
        made, copied = IndexedModel.from_release(published), IndexedModel.from_release(release)
        requests = sample_requests(made, num_items=20)
        for expected, answer in zip(made.answer(requests), copied.answer(requests), strict=True):
            np.testing.assert_array_equal(answer.item_row, expected.item_row)
            np.testing.assert_array_equal(answer.score, expected.score)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in copy.iterdir()) == before


def test_whoever_may_read_one_file_of_a_release_may_read_all(published):
    assert {path.stat().st_mode for path in published.folder.iterdir()} == {
        (published.folder / MANIFEST_FILE).stat().st_mode
    }


def test_a_file_that_cannot_be_read_is_named(copy, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "index.faiss")
    (finding,) = texts(copy)
    assert "index.faiss: expected a file that this user may read" in finding
    with pytest.raises(ReleaseError, match=r"index\.faiss: expected a file"):
        check_serves_here(copy)


def test_a_path_of_the_machine_that_made_it_is_found_wherever_it_stands(copy):
    edit_manifest(copy, metrics={"runs": ["/home/me/run"]})
    (finding,) = texts(copy)
    assert "metrics.runs[0]='/home/me/run': expected no path of the machine that made it" in finding
    dataset = json.loads((copy / MANIFEST_FILE).read_text())["dataset"]
    edit_manifest(copy, metrics={}, dataset=dataset | {"surfaces": ["", "/home", "related", "search"]})
    assert texts(copy) == []  # the name of a surface


def test_another_format_and_a_missing_part_are_errors(copy):
    (copy / "index.faiss").unlink()
    assert "index.faiss: None bytes, expected" in texts(copy)[0]
    edit_manifest(copy, format=FORMAT + 1)
    assert texts(copy)[0].startswith(f"error: {copy / MANIFEST_FILE}: format={FORMAT + 1}: expected {FORMAT}")


def test_a_machine_without_torch_or_memory_is_an_error_and_one_that_is_tight_a_warning(copy):
    needed = memory_needed(Release.open(copy).manifest)
    assert texts(copy, torch=None) == ["error: torch is not installed here: expected it for the generator"]
    assert texts(copy, memory=needed - 1)[0].startswith("error: the parts take")
    assert texts(copy, available=2 * needed - 1)[0].startswith("warning: the parts take")
    assert texts(copy, available=2 * needed) == []
    assert texts(copy, memory=None, available=None) == []


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"torch": "1.0"}, f"made with torch 1.0, here is {torch.__version__}"),
        ({"processor": here.processor() + " avx1024 amx_new"}, "it uses amx_new avx1024, which this processor lacks"),
        ({"processor": here.processor().split()[0]}, "besides"),
    ],
)
def test_a_program_for_another_machine_is_a_warning_that_says_what_differs(copy, attributes, said):
    (copy / FILE).write_bytes(b"program")
    part = Part.of(copy, FILE, attributes=fit_of_this_machine() | attributes)
    parts = json.loads((copy / MANIFEST_FILE).read_text())["parts"]
    edit_manifest(copy, parts=parts | {PROGRAM: to_plain(part)})
    (finding,) = texts(copy)
    assert finding.startswith(f"warning: {FILE} does not fit this machine: ")
    assert said in finding
    assert finding.endswith("the generator runs uncompiled, and `pinrec tune` compiles one for this machine")
    edit_manifest(copy, parts=parts | {PROGRAM: to_plain(Part.of(copy, FILE, attributes=fit_of_this_machine()))})
    assert texts(copy) == []


def test_what_is_known_of_this_machine_is_what_torch_knows():
    """The names differ, and torch knows more than instruction sets; those that its compiler chooses by are there."""
    assert here.torch_version() == torch.__version__
    capabilities, known = torch.cpu.get_capabilities(), here.processor().split()
    assert known[0] == capabilities["architecture"]
    for theirs, ours in {
        "avx2": "avx2",
        "avx512_f": "avx512f",
        "avx512_bf16": "avx512_bf16",
        "amx_int8": "amx_int8",
    }.items():
        if theirs in capabilities:
            assert (ours in known) == capabilities[theirs], theirs


def test_in_a_container_memory_is_what_the_container_may_use(tmp_path, monkeypatch):
    total, available = here.memory()
    assert 0 < available <= total
    monkeypatch.setattr(here, "CGROUP", tmp_path)
    for limit, expected in {"1048576": (1 << 20, 1 << 19), "max": (total, available)}.items():
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text(f"{1 << 19}\n")
        assert here.memory()[0] == expected[0]
        assert limit == "max" or here.memory()[1] == expected[1]
    monkeypatch.setattr(here, "MEMORY_INFO", tmp_path / "nowhere")
    assert here.memory() == (None, None)


def test_the_check_needs_neither_torch_nor_faiss_nor_arrow(published):
    code = (
        "import sys; from pathlib import Path; from pinrec_core.release.portability import check_serves_here; "
        "from pinrec_core.release.in_use import using_release; from pinrec_core.release.current import current_id; "
        "print(check_serves_here(Path(sys.argv[1]))); "
        "print([m for m in ('torch', 'faiss', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, published.folder], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "[]"], done.stderr
