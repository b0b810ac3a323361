"""All files of a release are checked without anything that opens them."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys

import pytest

from pinrec_core.errors import ReleaseError
from pinrec_core.release.manifest import FILES, HeldOut, verify_files
from pinrec_core.release.publishing import publish
from tests.pinrec_core.release.conftest import edit_manifest

HEAVY = ("torch", "faiss", "pyarrow")


@pytest.fixture(scope="module")
def release(serving, dataset, tmp_path_factory):
    return publish(
        serving, dataset=dataset, releases=tmp_path_factory.mktemp("releases"), metrics={},
        training=HeldOut(evaluation_share=0.3, held_out_last=0), now=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    )  # fmt: skip


def test_files_are_verified_without_torch_faiss_or_arrow(release):
    code = (
        "import sys; from pathlib import Path; from pinrec_core.release.manifest import verify_files; "
        "print(verify_files(Path(sys.argv[1])).release_id); print([m for m in sys.argv[2:] if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(release.folder), *HEAVY], capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.splitlines() == [release.manifest.release_id, "[]"], done.stderr


@pytest.mark.parametrize("part", FILES)
def test_every_part_is_verified(release, part):
    path = release.folder / FILES[part]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    try:
        with pytest.raises(ReleaseError, match=rf"{FILES[part]}: sha256 .*the file was changed or damaged"):
            verify_files(release.folder)
        path.write_bytes(whole[:-1])
        with pytest.raises(ReleaseError, match=rf"{FILES[part]}: {len(whole) - 1} bytes, expected {len(whole)}"):
            verify_files(release.folder)
    finally:
        path.write_bytes(whole)
    assert verify_files(release.folder) == release.manifest


def test_a_moment_that_is_none_is_refused(copies):
    release = copies(["a"]) / "a"
    edit_manifest(release, created_at="yesterday")
    with pytest.raises(ReleaseError, match=r"created_at='yesterday': expected a time such as 2026-"):
        verify_files(release)
