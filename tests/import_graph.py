"""The structure of the code as its own imports have it: rooms, floors, arrows, those that run up, and circles.

``python -m tests.import_graph`` prints it for this checkout, ``--root`` for another one, ``--svg`` draws it. The test
of the architecture reads the same graph.

A *room* is a module, or a package that is looked at as a whole. An *arrow* is an import, wherever it stands: at the top
of a file, in a function, or for type checking alone. A room's *floor* is one above the highest room that it imports. A
*circle* is a set of rooms that import one another in a ring; they share a floor, so that arrows within one do not lead
down, and count as running *up*.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parent.parent
NO_ROOMS = {"tests", "docs", "build", "dist", "demo", "runs"}
SEARCH_PATHS = (Path(), Path("client"))
"""Folders that top-level packages lie in."""


Arrow = tuple[str, str]
"""Who imports, and what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Rooms and the arrows between them."""

    rooms: tuple[str, ...]
    arrows: frozenset[Arrow]

    @property
    def floors(self) -> dict[str, int]:
        """Floor by room, the ground being 1; the rooms of a circle share theirs."""
        imported = self._imported
        ring = {room: number for number, rooms in enumerate(_rings(imported)) for room in rooms}
        floor: dict[str, int] = {}

        def height(room: str) -> int:
            if room not in floor:
                same = [other for other in self.rooms if ring[other] == ring[room]]
                below = {b for member in same for b in imported[member] if ring[b] != ring[room]}
                found = 1 + max(map(height, below), default=0)
                floor.update(dict.fromkeys(same, found))
            return floor[room]

        return {room: height(room) for room in self.rooms}

    @property
    def up(self) -> list[Arrow]:
        """Arrows to a floor that is not below."""
        floor = self.floors
        return sorted((a, b) for a, b in self.arrows if floor[a] <= floor[b])

    @property
    def circles(self) -> list[list[str]]:
        return sorted(sorted(ring) for ring in _rings(self._imported) if len(ring) > 1)

    @property
    def _imported(self) -> dict[str, set[str]]:
        return {room: {b for a, b in self.arrows if a == room} for room in self.rooms}


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project by its dotted name, tests left out."""
    found = {}
    for base in SEARCH_PATHS:
        for package in sorted((root / base).iterdir()):
            if (package / "__init__.py").is_file() and package.name not in NO_ROOMS:
                for path in sorted(package.rglob("*.py")):
                    name = ".".join(path.relative_to(root / base).with_suffix("").parts)
                    found[name.removesuffix(".__init__")] = path
    for path in sorted((root / "model_repository").glob("*/1/model.py")):
        found[f"model_repository.{path.parts[-3]}"] = path
    return found


def imports(root: Path) -> set[Arrow]:
    """Every import of one of the project's modules by another."""
    known = modules(root)
    found = set()
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found |= {(name, target) for target in _imported_by(node, known) if target != name}
    return found


def _imported_by(node: ast.AST, known: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:  # a module of a package, or a name within a module
            target = f"{node.module}.{alias.name}"
            if target not in known:
                target = node.module
            if target in known:
                yield target


def inside(folder: str, found: Iterable[Arrow]) -> Graph:
    """The rooms directly in a package, each taken as a whole; ``""`` is the project."""
    prefix = f"{folder}." if folder else ""

    def room(module: str) -> str | None:
        if module == folder:
            return "__init__"
        return module.removeprefix(prefix).partition(".")[0] if module.startswith(prefix) else None

    return _graph((room(a), room(b)) for a, b in found)


def house(found: Iterable[Arrow], open_packages: Iterable[str] = ("pinrec_core",)) -> Graph:
    """The whole project: packages as rooms, but for those that are looked into."""
    opened = sorted(open_packages, key=len, reverse=True)

    def room(module: str) -> str:
        for package in opened:
            if module.startswith(f"{package}."):
                return f"{package}.{module.removeprefix(f'{package}.').partition('.')[0]}"
        return module.partition(".")[0] if module.partition(".")[0] not in opened else f"{module}.__init__"

    return _graph((room(a), room(b)) for a, b in found)


def packages(root: Path) -> list[str]:
    """Every package of the project, the project itself first as ``""``."""
    return ["", *sorted(name for name, path in modules(root).items() if path.name == "__init__.py")]


def _graph(pairs: Iterable[tuple[str | None, str | None]]) -> Graph:
    """The arrows between rooms; None is outside of what is looked at."""
    between = list(pairs)
    rooms = {room for pair in between for room in pair if room is not None}
    arrows = {(a, b) for a, b in between if a is not None and b is not None and a != b}
    return Graph(rooms=tuple(sorted(rooms)), arrows=frozenset(arrows))


def _rings(reachable: Mapping[str, set[str]]) -> list[set[str]]:
    """Strongly connected sets of rooms: those from which each other is reached."""

    def all_from(room: str) -> set[str]:
        seen, waiting = {room}, [room]
        while waiting:
            for other in reachable[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    reach = {room: all_from(room) for room in reachable}
    rings: list[set[str]] = []
    for room in reachable:
        if not any(room in ring for ring in rings):
            rings.append({other for other in reach[room] if room in reach[other]})
    return rings


def summary(graph: Graph) -> str:
    """Figures, and the rooms of each floor from the top down."""
    floors = graph.floors
    lines = [
        f"{len(graph.rooms)} rooms on {max(floors.values())} floors, {len(graph.arrows)} arrows, "
        f"{len(graph.up)} up, {len(graph.circles)} circles"
    ]
    for floor in range(max(floors.values()), 0, -1):
        lines.append(f"  {floor:2}  {', '.join(room for room in graph.rooms if floors[room] == floor)}")
    lines += [f"  circle: {', '.join(ring)}" for ring in graph.circles]
    return "\n".join(lines)


def draw(graph: Graph, path: Path) -> None:
    """Floors from the ground up; arrows that run up in red."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: a third of the size, and it can be searched
    matplotlib.rcParams["svg.hashsalt"] = "structure"  # the same graph, the same file
    from matplotlib import pyplot as plt

    floors, up = graph.floors, set(graph.up)
    height = max(floors.values())
    place = {}
    for floor in range(1, height + 1):
        on_it = [room for room in graph.rooms if floors[room] == floor]
        place.update({room: ((i + 0.5) / len(on_it), floor) for i, room in enumerate(on_it)})
    figure, axes = plt.subplots(figsize=(15, 1.05 * height + 1))
    for a, b in sorted(graph.arrows):
        style = {"color": "crimson", "lw": 1.6} if (a, b) in up else {"color": "0.72", "lw": 0.7}
        axes.annotate("", place[b], place[a], arrowprops={"arrowstyle": "->", "shrinkA": 9, "shrinkB": 9, **style})
    for room, (x, y) in place.items():
        core = room.startswith("pinrec_core.")
        box = {"boxstyle": "round,pad=0.35", "fc": "#eaf2fb" if core else "#fdf3e3", "ec": "0.4"}
        axes.text(x, y, room.removeprefix("pinrec_core."), ha="center", va="center", fontsize=9, bbox=box)
    axes.set(xlim=(-0.03, 1.03), ylim=(0.4, height + 0.6), title=summary(graph).splitlines()[0])
    axes.axis("off")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def main(
    root: Annotated[Path, typer.Option(help="Checkout to read.", show_default="this one")] = ROOT,
    svg: Annotated[Path | None, typer.Option(help="Also draw it here.", show_default=False)] = None,
) -> None:
    """Print the structure of a checkout, and draw it."""
    found = imports(root)
    graph = house(found)
    print(summary(graph))
    for package in packages(root):
        for ring in inside(package, found).circles:
            print(f"  circle, in {package or 'the project'}: {', '.join(ring)}")
    if svg is not None:
        draw(graph, svg)
        print(f"drawn to {svg}")


if __name__ == "__main__":
    typer.run(main)
