"""The documents name what exists: their links lead somewhere, and the paths in them are those of the code."""

from __future__ import annotations

import re

import pytest

from tests.import_graph import ROOT, house, imports, modules

DOCUMENTS = [ROOT / "README.md", ROOT / "client" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DESCRIPTIVE = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("design", "serving", "benchmarks", "docker")),
]
"""Those that say what the code is now. The log keeps the names that things had when they were tried."""
FOLDERS = {name.partition(".")[0] for name in modules(ROOT)} | {"client", "docker", "docs", "tests"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text("utf-8"))):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text("utf-8")), target


@pytest.mark.parametrize("document", DESCRIPTIVE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_in_the_text_exists(document):
    for name in re.findall(r"`([\w./-]+)`", without_code(document.read_text("utf-8"))):
        if "/" in name and name.partition("/")[0] in FOLDERS:
            assert (ROOT / name).exists() or list(ROOT.glob(f"{name}*.py")), name
        elif name.endswith(".py"):  # named beside its folder
            assert any(path.as_posix().endswith(f"/{name}") for path in modules(ROOT).values()), name


def test_the_order_of_imports_in_the_design_is_that_of_the_code():
    block = next(b for b in re.findall(r"```\n(.*?)```", design(), re.DOTALL) if b.startswith("benchmarks\n"))
    line = {room: number for number, rooms in enumerate(block.splitlines()) for room in rooms.split(" · ")}
    graph = house(imports(ROOT))
    rooms = {room: room.removeprefix("pinrec_core.") for room in graph.rooms if room != "pinrec_core.__init__"}
    assert set(line) == set(rooms.values())
    for above, below in graph.arrows:
        if above in rooms and below in rooms:
            assert line[rooms[above]] < line[rooms[below]], f"{above} imports {below}"


def test_the_map_of_the_design_has_every_folder():
    table = design().partition("# The map\n")[2].partition("\n# ")[0]
    named = {name.rstrip("/") for name in re.findall(r"`([\w./]+)`", table)}
    packages = {path.parent.relative_to(ROOT) for path in modules(ROOT).values() if path.name == "__init__.py"}
    top_level = {package.parts[0] for package in packages}
    folders = {package.as_posix() for package in packages if package.parent.name == "pinrec_core"}
    assert top_level | folders | {"model_repository", "tests"} <= named


def design() -> str:
    return (ROOT / "docs" / "design.md").read_text("utf-8")


def without_code(text: str) -> str:
    """Without its fenced blocks, which hold commands and output."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """What the headings of a document are linked by, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
