"""What the process of a stage imports. A library is a part of its memory that no two processes share."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys, {module}
print([name for name in ("torch", "faiss", "pyarrow", "pyspark", "grpc") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("id_embedder.stage", []),
        ("pinrec_core.stages.faiss_retrieval", ["faiss"]),
        ("pinrec_core.stages.generator", ["torch"]),
        ("signal_service.ingest_stage", []),
        ("signal_service.fetch_stage", ["pyarrow"]),
        ("pinrec_serving.stage_process", []),
        ("id_embedder.remote_stage", []),
        ("pinrec_serving.remote_stage", ["grpc"]),
    ],
)
def test_a_stage_imports_the_libraries_that_it_needs(module, libraries):
    done = subprocess.run([sys.executable, "-c", CODE.format(module=module)], capture_output=True, text=True)
    assert done.stdout.strip() == str(libraries), done.stderr
