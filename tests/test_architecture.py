"""The direction of imports: the model package knows nothing of Triton, sockets or the command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pinrec_core import contract

ROOT = Path(__file__).parent.parent
OUTER = {"tritonclient", "triton_python_backend_utils", "socket", "argparse", "typer", "grpc", "rich", "pinrec_client"}
SERVICES = {"signal_service", "id_embedder"}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def files(package: str, *, without: tuple[str, ...] = ()) -> list[Path]:
    return [p for p in sorted((ROOT / package).rglob("*.py")) if not any(f"/{w}/" in str(p) for w in without)]


@pytest.mark.parametrize(
    "path", files("pinrec_core", without=("serving", "cli")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_model_package_imports_no_server_and_no_service(path):
    top = {name.split(".")[0] for name in imports(path)}
    assert not top & (OUTER | SERVICES)
    assert not {n for n in imports(path) if n.startswith(("pinrec_core.serving", "pinrec_core.cli"))}


@pytest.mark.parametrize("package", ["signal_service", "id_embedder"])
def test_services_import_the_model_package_and_no_server(package):
    for path in files(package):
        names = imports(path)
        assert not {n for n in names if n.startswith(("tritonclient", "pinrec_core.serving", "pinrec_core.cli"))}, path


def test_the_client_stands_alone():
    for path in files("client/pinrec_client"):
        top = {name.split(".")[0] for name in imports(path)}
        assert not top & {"pinrec_core", "torch", "faiss", "pyarrow", "signal_service"}, path


def test_no_pickle_and_no_path_edits_anywhere():
    for package in ("pinrec_core", "signal_service", "id_embedder", "client", "load_tests", "model_repository"):
        for path in files(package):
            assert "pickle" not in {n.split(".")[0] for n in imports(path)}, path
            text = path.read_text("utf-8")
            assert "torch.load(" not in text, path
            assert "sys.path." not in text, path


def test_contract_uses_only_letters_of_the_table():
    stages = (*contract.PIPELINE, contract.ENSEMBLE, contract.SIGNAL_INGEST)
    letters = {d for s in stages for t in (*s.inputs, *s.outputs) for d in t.dims if isinstance(d, str)}
    assert letters <= set(contract.DIMENSIONS)


def test_every_input_of_a_stage_is_made_before_it():
    known = {t.name for t in contract.REQUEST}
    for stage in contract.PIPELINE:
        assert {t.name for t in stage.inputs} <= known, stage.name
        assert not {t.name for t in stage.outputs} & known, "a tensor is made once"
        known |= {t.name for t in stage.outputs}
    assert {t.name for t in contract.RESPONSE} <= known
