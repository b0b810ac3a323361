"""The structure of the code: data flows one way at every level, and each package knows no more than it may."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pinrec_core import contract
from tests.import_graph import ROOT, imports, inside, modules, packages

MODULES = modules(ROOT)
IMPORTS = imports(ROOT)
SERVERS = {"tritonclient", "triton_python_backend_utils", "grpc"}
INTERFACES = {"argparse", "typer", "rich", "pinrec_cli", "pinrec_client"}
SERVICES = {"signal_service", "id_embedder", "pinrec_serving"}
MAY_NOT_KNOW = {
    "pinrec_core": SERVERS | INTERFACES | SERVICES | {"socket"},
    "signal_service": SERVERS | {"pinrec_serving", "pinrec_cli", "pinrec_client"},
    "id_embedder": SERVERS | INTERFACES | {"pinrec_serving", "signal_service"},
    "pinrec_serving": {"pinrec_cli", "pinrec_client", "signal_service", "id_embedder"},
    "pinrec_client": {"pinrec_core", "torch", "faiss", "pyarrow", *SERVICES},
    "event_stream": {"torch", "faiss", "tritonclient", "grpc", "typer", "rich", "pinrec_cli", *SERVICES},
    "load_tests": {"torch", "faiss", *SERVICES},
}
"""What no module of a package imports, at the top of a file or within a function."""


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", packages(ROOT), ids=lambda name: name or "project")
def test_no_arrow_runs_up_and_there_is_no_circle_at_any_level(package):
    graph = inside(package, IMPORTS)
    assert graph.circles == []
    assert graph.up == []


def test_a_circle_and_its_arrows_are_found():
    """The test above can fail: through a function, through type checking, between packages, and within one."""
    graph = inside("", {("a.x", "b.y"), ("b.z", "a.x"), ("c.d", "a.x")})
    assert graph.circles == [["a", "b"]]
    assert graph.up == [("a", "b"), ("b", "a")]
    assert graph.floors == {"a": 1, "b": 1, "c": 2}
    assert inside("b", {("a.x", "b.y"), ("b.z", "a.x")}).circles == []


def test_every_import_is_seen(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "client").mkdir()
    for name in ("__init__", "b", "c", "d", "e"):
        (tmp_path / "a" / f"{name}.py").write_text("")
    (tmp_path / "a" / "b.py").write_text(
        "import a.c\nfrom a import d\nif TYPE_CHECKING:\n    from a.e import Name\n"
        "def f():\n    from a.c import g\n    import os\n"
    )
    assert imports(tmp_path) == {("a.b", "a.c"), ("a.b", "a.d"), ("a.b", "a.e")}


@pytest.mark.parametrize("package", MAY_NOT_KNOW)
def test_a_package_knows_no_more_than_it_may(package):
    for name, path in MODULES.items():
        if name.partition(".")[0] == package:
            assert not imported_packages(path) & MAY_NOT_KNOW[package], name


def test_every_package_says_what_lives_in_it():
    for name in packages(ROOT)[1:]:
        described = ast.get_docstring(ast.parse(MODULES[name].read_text("utf-8")))
        assert described is not None, f"{name}: expected a docstring in its __init__.py"
        assert len(described) > 40, name


def test_no_pickle_and_no_path_edits_anywhere():
    for name, path in MODULES.items():
        assert "pickle" not in imported_packages(path), name
        text = path.read_text("utf-8")
        assert "torch.load(" not in text, name
        assert "sys.path." not in text, name


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
