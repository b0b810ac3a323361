"""A made-up release is served, and memory is counted as the system counts it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.pipeline import Pipeline, request_tensors
from benchmarks.process_memory import pss_mib, tree
from benchmarks.synthetic_release import HASHES, Sizes, make_release
from pinrec_core.stages.base import StageParameters

SIZES = Sizes(items=500, table_rows=1000, preset="tiny", users=4)


def test_a_made_up_release_answers(tmp_path):
    release, signals = make_release(tmp_path, SIZES, lambda _: None)
    release.verify()
    model = release.manifest.model
    assert (model.id_hashes * model.id_rows, len(release.catalogue)) == (HASHES * 256, 500)
    parameters = StageParameters(release=release.folder, signals=signals, realtime=None, device="cpu", threads=1)
    (answer,) = Pipeline(parameters).run([request_tensors(3, 20, release.manifest.dataset)])
    assert len(np.unique(answer["item_id"])) == 20


@pytest.mark.parametrize("rows", [1, 1000, 1280, 1281])
def test_the_tables_have_at_least_the_rows_that_were_asked_for(rows):
    model = Sizes(items=1, table_rows=rows, preset="tiny").model
    assert rows <= model.id_hashes * model.id_rows < 2 * rows + HASHES


def test_memory_is_that_of_a_process_and_its_descendants():
    block = "import sys; b = bytearray(64 << 20); b[::4096] = b'x' * len(b[::4096]); print(flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {block!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"\n"
        found = tree(parent.pid)
        assert len(found) == 2
        assert set(found) <= set(tree(os.getpid()))
        assert 64 < pss_mib(found) < 128
        assert pss_mib(found[:1]) < 64
        parent.communicate(b"\n")
