"""Memory of the real server, and what a further instance of each stage adds to it.

The release is made up: a million items, ten million rows of ID tables, the model of the largest preset that was named.
Each row is a server of its own, with one instance of every stage or a further one of one stage, after requests have
warmed it up. Memory is PSS, in which a page that processes share is divided among them, so that the sum is what the
machine spends. It is that of Triton and its stage processes; ``pinrec serve``, which started them, is given beside it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.demo import Folders
from benchmarks.options import Options, Progress
from benchmarks.process_memory import pss_mib, tree
from benchmarks.report import Result, Row, Value
from benchmarks.server import served
from benchmarks.synthetic_release import Sizes, make_release
from benchmarks.timing import Timing
from pinrec_cli.closed_loop import closed_loop
from pinrec_core.contract import FAISS_RETRIEVAL, GENERATOR, ID_EMBEDDER, SIGNAL_FETCH
from pinrec_core.release.compiling import compile_for_this_machine

BASELINE = "one of each"
STAGES = (SIGNAL_FETCH.name, ID_EMBEDDER.name, GENERATOR.name, FAISS_RETRIEVAL.name)
SHARED = (FAISS_RETRIEVAL.name, ID_EMBEDDER.name)
"""The stages whose data is large: of them a third instance is measured too."""
ITEMS, TABLE_ROWS = 1_000_000, 10_000_000
QUICK_ITEMS, QUICK_TABLE_ROWS = 20_000, 100_000
CLIENTS = 8
WARM_UP_SECONDS = 3.0


def run(options: Options, progress: Progress) -> Result:
    items, table_rows = (QUICK_ITEMS, QUICK_TABLE_ROWS) if options.quick else (ITEMS, TABLE_ROWS)
    sizes = Sizes(items=items, table_rows=table_rows, preset=options.presets[-1])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="pinrec-memory-") as folder:
        release, signals = make_release(Path(folder), sizes, progress)
        folders = Folders(release=release.folder, signals=signals)
        rows += _measure(options, folders, sizes, "plain", progress)
        if not options.quick:
            progress("compiling the generator")
            compile_for_this_machine(release)
            rows += _measure(options, folders, sizes, "compiled", progress)
        model = release.manifest.model
        settings = {
            "V": items, "D": model.item_width, "table rows": model.id_hashes * model.id_rows,
            "row width": model.id_width // model.id_hashes, "preset": sizes.preset, "threads": options.threads,
        }  # fmt: skip
    return Result(benchmark="memory", baseline=BASELINE, settings=settings, floors=[], rows=rows)


def _measure(options: Options, folders: Folders, sizes: Sizes, generator: str, progress: Progress) -> list[Row]:
    """A server with one instance of each stage; servers with a second one of each, and a third of the large ones."""
    case: dict[str, Value] = {"generator": generator}
    first, row = _server(options, folders, sizes, {}, progress)
    rows = [Row(case=case, what=BASELINE, timing=row, ratio=1.0, more={"MiB": first[0], "pinrec serve MiB": first[1]})]
    for stage in (GENERATOR.name,) if generator == "compiled" else STAGES:
        before = first[0]
        for count in (2, 3) if stage in SHARED and not options.quick else (2,):
            (memory, owner), row = _server(options, folders, sizes, {stage: count}, progress)
            more = {"MiB": memory, "pinrec serve MiB": owner, "further MiB": memory - before,
                    "of the first": (memory - before) / first[0]}  # fmt: skip
            rows.append(Row(case=case, what=f"{stage} × {count}", timing=row, ratio=memory / first[0], more=more))
            before = memory
    return rows


def _server(
    options: Options, folders: Folders, sizes: Sizes, instances: dict[str, int], progress: Progress
) -> tuple[tuple[float, float], Timing]:
    """MiB of Triton with its stages and of ``pinrec serve``, and the latencies of the requests that warmed it up."""
    progress(", ".join(f"{stage} × {count}" for stage, count in instances.items()) or BASELINE)
    arguments: list[object] = ["--front", "none", "--threads", options.threads]
    for stage, count in instances.items():
        arguments += ["--instances", f"{stage}={count}"]
    with served(folders, arguments) as server:
        load = closed_loop(server.url, list(range(sizes.users)), clients=CLIENTS, seconds=WARM_UP_SECONDS)
        owner, *triton = tree(server.pid)
        return (pss_mib(triton), pss_mib([owner])), Timing.of(load.latencies_ms)
