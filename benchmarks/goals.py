"""The goals of speed, scale, operation and signals, each beside what the committed results say:
``python -m benchmarks goals``.

It measures nothing. It reads this machine's results from ``benchmarks/results``, writes ``goals.json`` there and the
tables in ``docs/benchmarks.md``, ``docs/operate.md`` and ``docs/signals.md``. A goal that nothing measured stays in all
of them, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import write_between
from pinrec_core.errors import ConfigError

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {name: DOCS / f"{name}.md" for name in ("benchmarks", "operate", "signals")}
START, END = "<!-- goals: written by python -m benchmarks goals -->", "<!-- end of goals -->"

RESULT_FOLDERS = {
    "": "",
    "small/": " --release (of a small run)",
    "scale/": " --release (of a million items)",
    "scale256/": " --release (of a million items, width 256)",
}

COMMANDS = {
    "program": "OMP_WAIT_POLICY=ACTIVE python -m benchmarks program --threads 2",
    "release": "python -m benchmarks release --run (of a million items)",
    "scale_load": "python -m benchmarks scale --part load --release (of a small run)",
}
"""Of benchmarks that have other names, or whose committed results were made with options. Two cores that do nothing
else may spin."""

DRILLS = {"operation_": "python -m benchmarks.operation", "signals_": "python -m benchmarks.signals"}
"""What the names of results of drills begin with, and the command that runs them."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One goal. ``result`` names a file of results without the machine; ``value`` finds the figure in its rows.

    ``missing`` says why a goal has no figure, as long as there is none.
    """

    goal: str
    case: str
    target: float
    at_most: bool = True
    result: str = ""
    value: Callable[[Rows], float] | None = None
    missing: str = ""
    page: str = "benchmarks"  # one of PAGES, which shows it


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A line of ``goals.json``."""

    goal: str
    case: str
    value: float | None
    target: str
    reached: bool | None
    command: str
    machine: str
    page: str = "benchmarks"


def field(name: str, /, **where: object) -> Callable[[Rows], float]:
    """The value of ``name`` in the one row that has all values of ``where``."""
    return lambda rows: float(_row(rows, where)[name])


def over(above: Callable[[Rows], float], below: Callable[[Rows], float]) -> Callable[[Rows], float]:
    return lambda rows: above(rows) / below(rows)


def most(name: str, **where: object) -> Callable[[Rows], float]:
    """The largest value of ``name`` in the rows that have it and all values of ``where``."""
    return lambda rows: max(float(row[name]) for row in rows if name in row and _has(row, where))


def least(name: str) -> Callable[[Rows], float]:
    """The smallest value of ``name`` in the rows that have it."""
    return lambda rows: min(float(row[name]) for row in rows if name in row)


def total(name: str) -> Callable[[Rows], float]:
    """The sum of ``name`` over all rows that have it."""
    return lambda rows: sum(float(row[name]) for row in rows if name in row)


def _has(row: Mapping[str, Any], where: Mapping[str, object]) -> bool:
    return all(row.get(name) == value for name, value in where.items())


def _row(rows: Rows, where: Mapping[str, object]) -> Mapping[str, Any]:
    found = [row for row in rows if _has(row, where)]
    if len(found) != 1:
        raise ConfigError(f"{len(found)} rows of results with {dict(where)}: expected one")
    return found[0]


def _per_stage(rows: Rows, generator: str = "plain") -> float:
    served, alone = (
        field("median_ms", clients="1", generator=generator, what=what)(rows)
        for what in ("client → Triton", "in process")
    )
    return (served - alone) / 4


def _served_share(rows: Rows, generator: str = "plain") -> float:
    served, alone = (
        field("requests/s", clients="16", generator=generator, what=what)(rows)
        for what in ("client → Triton", "in process")
    )
    return served / alone


def _further(stage: str, generator: str = "plain", count: int = 2) -> Callable[[Rows], float]:
    return field("of the first", generator=generator, what=f"{stage} × {count}")


def _operation(drill: str, goal: str, *cases: tuple[str, float, Callable[[Rows], float]]) -> list[Goal]:
    return [
        Goal(goal=goal, case=case, target=target, result=f"operation_{drill}", value=value, page="operate")
        for case, target, value in cases
    ]


def _signals(
    drill: str, goal: str, *cases: tuple[str, float, Callable[[Rows], float]], at_most: bool = True
) -> list[Goal]:
    return [
        Goal(goal=goal, case=case, target=target, result=f"signals_{drill}", value=value, page="signals",
             at_most=at_most)
        for case, target, value in cases
    ]  # fmt: skip


_REFERENCE = {"case": "6 x 512", "what": "compiled"}
_INT8 = {"case": "6 x 512", "what": "compiled, INT8"}
_COMPRESSION = {"case": "compression of 480"}
_LARGE_TABLE = {"table": "16.8M x 64", "B": 1}
NO_GPU = "no GPU was at hand"

GOALS = (
    Goal(goal="generator, BF16, over GPT-2 with cache", case="6 x 512, T = 256, 6 steps, batch 1", target=0.35,
         result="program", value=field("ratio", B=1, **_REFERENCE)),
    Goal(goal="generator, BF16, over GPT-2 with cache", case="6 x 512, T = 256, 6 steps, batch 8", target=0.35,
         result="program", value=field("ratio", B=8, **_REFERENCE)),
    Goal(goal="generator, INT8, over GPT-2 with cache", case="6 x 512, T = 256, 6 steps, batch 1", target=0.28,
         result="program", value=field("ratio", B=1, **_INT8)),
    Goal(goal="generator, INT8, over GPT-2 with cache", case="6 x 512, T = 256, 6 steps, batch 8", target=0.28,
         result="program", value=field("ratio", B=8, **_INT8)),
    Goal(goal="share of the measured BF16 rate in prefill", case="6 x 512, batch 8", target=0.7, at_most=False,
         result="program", value=over(field("floor_ms", case="prefill"), field("median_ms", case="prefill"))),
    Goal(goal="generator over GPT-2 with cache", case="`small`, T = 128, batch 1", target=0.4,
         result="program", value=field("ratio", case="small", what="compiled")),
    Goal(goal="a batch of mixed lengths over the sum of its parts", case="8 histories of 10 to 256", target=1.1,
         result="program", value=field("ratio", what="one batch")),
    Goal(goal="compression and allocation, ms", case="480 embeddings, batch 32", target=1.0,
         result="program", value=field("median_ms", what="compress + allocate", **_COMPRESSION)),
    Goal(goal="compression and allocation over the generator", case="480 embeddings, batch 32", target=0.03,
         result="program", value=field("ratio", what="compress + allocate", **_COMPRESSION)),
    Goal(goal="one step of {MT,OC} with 16 offsets over PinnerFormer", case="6 x 512, without the index", target=1.3,
         result="program", value=field("ratio", what="{MT,OC}")),
    Goal(goal="one step of {MT,OC} with 16 offsets over PinnerFormer, served recall", case="`ml100k`, `tiny`",
         target=1.05, at_most=False, result="one_step", value=field("ratio", what="{MT,OC}")),
    Goal(goal="start with a compiled program over eager, s", case="6 x 512", target=5.0,
         result="program", value=field("load s", case="6 x 512", B=1, what="compiled")),
    Goal(goal="GPU: batch 1 p50, ms", case="`base`, T = 512, 6 x 5 x 16", target=1.2,
         result="gpu", value=field("median_ms", case="base", B=1, what="stage"), missing=NO_GPU),
    Goal(goal="GPU: requests/s at batch 32", case="`base`, T = 512, 6 x 5 x 16", target=4000, at_most=False,
         result="gpu", value=field("requests/s", case="base", B=32, what="stage"), missing=NO_GPU),
    Goal(goal="retrieval over the bare search", case="1M items, N = 100, batch 16", target=1.5,
         result="scale/retrieval", value=field("ratio", N=100, B=16, what="retrieve")),
    Goal(goal="retrieval over the bare search", case="1M items, N = 1000, batch 16", target=1.3,
         result="scale/retrieval", value=field("ratio", N=1000, B=16, what="retrieve")),
    Goal(goal="retrieval over the bare search", case="100,000 clustered vectors, N = 100, batch 16", target=1.5,
         result="retrieval", value=field("ratio", N=100, B=16, what="retrieve")),
    Goal(goal="retrieval over the bare search", case="100,000 clustered vectors, N = 1000, batch 16", target=1.3,
         result="retrieval", value=field("ratio", N=1000, B=16, what="retrieve")),
    Goal(goal="recall of the index at the served depth", case="1M x 64, generated queries", target=0.98, at_most=False,
         result="scale/retrieval", value=field("recall", what="bare Faiss search", N="lookup")),
    Goal(goal="recall of the index at the served depth", case="1M x 256, generated queries", target=0.98,
         at_most=False, result="scale256/retrieval", value=field("recall", what="bare Faiss search", N="lookup")),
    Goal(goal="release of a million items, s", case="with its evaluation", target=300, result="release",
         value=field("seconds", what="with figures")),
    Goal(goal="ID tables over one index_select in FP32", case="16.8M x 64, FP16, 128 fresh keys", target=1.5,
         result="id_embedder", value=field("ratio", T=128, what="FP16 tables", **_LARGE_TABLE)),
    Goal(goal="ID tables over one index_select in FP32", case="16.8M x 64, FP16, 512 fresh keys", target=1.5,
         result="id_embedder", value=field("ratio", T=512, what="FP16 tables", **_LARGE_TABLE)),
    Goal(goal="ID tables over one index_select in FP32", case="16.8M x 64, INT8, 128 fresh keys", target=1.5,
         result="id_embedder", value=field("ratio", T=128, what="INT8 tables", **_LARGE_TABLE)),
    Goal(goal="ID tables, memory over FP32", case="FP16", target=0.52, result="id_embedder",
         value=field("of FP32 memory", T=128, what="FP16 tables", **_LARGE_TABLE)),
    Goal(goal="ID tables, memory over FP32", case="INT8", target=0.3, result="id_embedder",
         value=field("of FP32 memory", T=128, what="INT8 tables", **_LARGE_TABLE)),
    Goal(goal="memory of a further process of ID tables", case="10 GB, FP16", target=0.1, result="id_tables",
         value=field("of the first", rows="fp16", what="further process")),
    Goal(goal="ID embedder stage p99 under load, ms", case="10 GB, FP16, 3 processes", target=10, result="id_tables",
         value=field("p99_ms", rows="fp16", what="stage, all at once")),
    Goal(goal="Triton, per stage above in-process, ms", case="`tiny`, one client", target=0.8, result="ensemble",
         value=_per_stage),
    Goal(goal="Triton, per stage above in-process, ms", case="`small`, one client", target=0.8,
         result="small/ensemble", value=_per_stage),
    Goal(goal="Triton, per stage above in-process, ms", case="`small`, compiled, one client", target=0.8,
         result="small/ensemble", value=partial(_per_stage, generator="compiled")),
    Goal(goal="Triton over in-process, requests/s", case="`small`, 16 clients", target=0.85, at_most=False,
         result="small/ensemble", value=_served_share),
    Goal(goal="Triton over in-process, requests/s", case="`small`, compiled, 16 clients", target=0.85, at_most=False,
         result="small/ensemble", value=partial(_served_share, generator="compiled")),
    Goal(goal="Triton over in-process, requests/s", case="`tiny`, 16 clients", target=0.85, at_most=False,
         result="ensemble", value=_served_share),
    *(
        Goal(goal="memory of a server per further instance of a stage", case=f"`{stage}`, 1M items, 10M table rows",
             target=0.1, result="memory", value=_further(stage))
        for stage in ("signal_fetch", "id_embedder", "generator", "faiss_retrieval")
    ),
    Goal(goal="memory of a server per further instance of a stage", case="`generator`, compiled", target=0.1,
         result="memory", value=_further("generator", "compiled")),
    Goal(goal="p99 / p50 at 70% of saturation", case="the ensemble", target=3, result="scale_load",
         value=field("p99 / p50", load="70%", what="open loop")),
    *_operation("kills", "`kill -9` of each stage process under load, 20 rounds",
                ("noticed, s", 1, most("noticed s")), ("serving again, s", 20, most("serving again s")),
                ("failed before or afterwards", 0, most("failed outside")), ("events lost", 0, most("events lost"))),
    *_operation("containers", "`kill -9` of Triton, of `pinrec serve`, OOM of a stage in the container",
                ("rounds that needed a person", 0, total("needed a person")),
                ("acknowledged events lost", 0, total("events lost"))),
    *_operation("overload", "4x overload for two minutes",
                ("refused p99, ms", 50, field("refused p99 ms", load="4 x saturation")),
                ("accepted p99 over the objective", 2, field("accepted p99 / SLO", load="4 x saturation")),
                ("recovered, s", 10, field("recovered s", load="4 x saturation"))),
    Goal(goal="4x overload for two minutes", case="goodput over saturation", target=0.95, at_most=False,
         result="operation_overload", page="operate", value=field("goodput / saturation", load="4 x saturation")),
    *_operation("swaps", "30 swaps and 5 bad releases under load at 50%",
                ("failed", 0, most("failed")), ("mixed", 0, most("mixed")), ("p99 over before", 2, most("p99 ratio")),
                ("bad ones that served", 0, lambda rows: rows[0]["bad releases"] - rows[0]["bad refused"])),
    *_operation("stops", "SIGTERM under load, 20 rounds", ("accepted lost", 0, total("accepted lost"))),
    *_operation("soak", "soak, 30 minutes at 70%", ("failed", 0, most("failed")),
                ("lower end of the slope of memory, MiB/h", 0, most("from"))),
    *_signals("writer_kills", "`kill -9` of the writer of the embedded store, 200 rounds of each durability",
              ("rounds", 200, least("rounds")), at_most=False),
    *_signals("writer_kills", "`kill -9` of the writer of the embedded store, 200 rounds of each durability",
              ("batches lost, in part, twice or back", 0, total("wrong"))),
    *_signals("redis_kills", "`kill -9` of the writer to Redis, and of a Redis with `appendfsync always`, 200 rounds",
              ("batches lost, in part or twice", 0, total("wrong"))),
    *_signals("publish_kills", "`kill -9` of a publish, 50 rounds",
              ("rounds in which the next run failed", 0, field("next run failed", what="publish"))),
    *_signals("fuzz", "20,000 requests with events, most of them malformed", ("findings", 0, total("findings"))),
    *_signals("fetch", "fetch, merge and de-quantise a history of 1,024, a million users in the store",
              ("p99, ms", 2, field("p99_ms", what="fetch + merge + de-quantise"))),
    *_signals("ingest", "append to the embedded store in batches of 100, one core, without the stage",
              ("events/s, process", 20_000, field("events/s", durability="process")),
              ("events/s, disk", 5_000, field("events/s", durability="disk")), at_most=False),
    *_signals("ingest", "an appended event is visible to the next read, without the stage",
              ("p99, ms", 250, most("visible p99, ms"))),
    *_signals("features", "INT8 features, median cosine to FP32", ("the worst width", 0.999, least("median cosine")),
              at_most=False),
    *_signals("features", "INT8 features, bytes over FP32", ("the worst width", 0.27, most("bytes over FP32"))),
    *_signals("batch", "memory of Spark and the view, GiB", ("3M and more events", 3.0, most("peak GiB"))),
    *_signals("batch", "an incremental day over a full run", ("the largest log", 0.1, most("day / full"))),
    *_operation("fuzz", "10,000 malformed requests, half of them nearly valid",
                ("findings: a crash, a hang, a leak, an answer that is wrong", 0, most("findings")),
                ("changed neighbours", 0, most("changed neighbours"))),
)  # fmt: skip


def collect(folder: Path, slug: str) -> list[Reached]:
    """Every goal with what the results of the machine ``slug`` say. Raises ``ConfigError`` where a row is missing."""
    return [_reached(goal, folder, slug) for goal in GOALS]


def _reached(goal: Goal, folder: Path, slug: str) -> Reached:
    value, machine, command = None, "", goal.missing
    if goal.value is not None:
        place, _, benchmark = goal.result.rpartition("/")
        command = COMMANDS.get(benchmark, f"python -m benchmarks {benchmark}")
        for start, program in DRILLS.items():
            if benchmark.startswith(start):
                command = f"{program} {benchmark.removeprefix(start)}"
        command += RESULT_FOLDERS[f"{place}/" if place else ""]
        path = folder / f"{goal.result}-{slug}.json"
        if benchmark == "gpu":  # of whatever machine has one: its name is the GPU's
            path = next(iter(sorted(folder.glob("gpu-*.json"))), path)
        if not path.is_file():
            command = goal.missing or command
        else:
            result = json.loads(path.read_text("utf-8"))
            value = goal.value(result["rows"])
            card = result["machine"]
            machine = f"{card['gpu'] or card['cpu']}, {card['cores']} cores, load {card['load_average'][0]}"
    reached = None if value is None else value <= goal.target if goal.at_most else value >= goal.target
    target = f"{'<=' if goal.at_most else '>='} {goal.target:g}"
    return Reached(
        goal=goal.goal, case=goal.case, value=value, target=target, reached=reached, command=command, machine=machine,
        page=goal.page,
    )  # fmt: skip


def write(lines: Sequence[Reached], folder: Path, pages: Mapping[str, Path]) -> None:
    """``goals.json`` and the table of each page."""
    plain = [asdict(line) for line in lines]
    (folder / "goals.json").write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name, page in pages.items():
        write_between(page, START, END, _table([line for line in lines if line.page == name]))


def _table(lines: Sequence[Reached]) -> str:
    head = "| goal | case | target | measured | reached | command |\n|---|---|---|---|---|---|\n"
    verdict = {True: "yes", False: "**no**", None: "open"}
    return head + "".join(
        f"| {line.goal} | {line.case} | {line.target} | {'' if line.value is None else f'{line.value:.3g}'} | "
        f"{verdict[line.reached]} | {line.command if line.value is None else f'`{line.command}`'} |\n"
        for line in lines
    )
