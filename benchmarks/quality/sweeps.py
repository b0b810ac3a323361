"""Parts of a study's page that are not lists of runs: controllability, embeddings per step, number formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.quality import plots
from benchmarks.quality.markdown import interval, number, over_seeds, sentence, slug, table
from benchmarks.quality.protocols import protocol
from benchmarks.quality.results import StudyResult


def controllability(result: StudyResult, folder: Path) -> Iterator[list[str]]:
    for run, found in result.plain["controllability"].items():
        outcomes, matrix = result.outcomes, found["matrix"]
        title, reference = result.runs[run]["title"], result.runs[found["reference"]]["title"]
        rows, ratios = [], []
        for true in outcomes:
            ratio = [matrix[true]["ratio"][desired] for desired in outcomes]
            ratios.append([np.nan if r["value"] is None else r["value"] for r in ratio])
            cells = [f"{number(r['value'], 2)} {interval([r['low'], r['high']], 2)}" for r in ratio]
            rows.append([true, f"{matrix[true]['targets']:,}", number(matrix[true]["reference"]["value"]), *cells])
        yield [
            f"## Controllability of {title}", "",
            f"Recall over that of {reference} with all budget on one outcome (columns), by the target's true outcome "
            f"(rows). {sentence(protocol(result, 'controllability'))}", "",
        ]  # fmt: skip
        yield table(["true outcome", "targets", f"recall of {reference}", *outcomes], rows)
        plot = f"{result.name}-controllability-{slug(run)}.svg"
        plots.save(plots.heat_map(np.array(ratios), outcomes), folder / plot)
        yield [f"![Controllability matrix of {title}]({plot})", ""]


def steps(result: StudyResult, folder: Path) -> Iterator[list[str]]:
    drawn: dict[str, list[dict[str, float]]] = {}
    rows = []
    for run in result.runs_with("steps"):
        sweeps = [seed["points"] for seed in result.seeds(run, "steps")]
        points = [_mean_point(same) for same in zip(*sweeps, strict=True)]
        if len(points) > 1:
            drawn[result.runs[run]["title"]] = points
        for point, plain in zip(points, sweeps[0], strict=True):
            rows.append(
                [
                    result.runs[run]["title"],
                    *(str(plain[name]) for name in ("offsets_per_step", "steps", "embeddings_per_step")),
                    number(point["recall"]), number(point["diversity"], 3), number(point["latency"], 2),
                    number(point["p99"], 2),
                ]
            )  # fmt: skip
    if not rows:
        return
    total = result.plain["evaluation"]["sweep_embeddings"]
    yield [
        "## Embeddings per step at an equal total", "",
        f"{total} embeddings per outcome in all. Latency is that of generation for one request at a time on the "
        "machine of the run, with no other piece of a study beside it; the machine's load average before was "
        f"{_loads(result)}.", "",
    ]  # fmt: skip
    yield table(
        ["run", "offsets per step", "steps", "embeddings per step", "recall", "diversity", "median ms", "p99 ms"], rows
    )
    if drawn:
        plot = f"{result.name}-embeddings-per-step.svg"
        plots.save(plots.embeddings_per_step(drawn), folder / plot)
        yield [f"![Recall, diversity and latency against embeddings per step]({plot})", ""]


def _loads(result: StudyResult) -> str:
    """The smallest and the largest load average over runs and seeds."""
    found = [seed["load_average"] for run in result.runs_with("steps") for seed in result.seeds(run, "steps")]
    return f"{min(found):.1f} to {max(found):.1f}"


def _mean_point(same: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        "width": same[0]["offsets_per_step"],
        "recall": fmean(point["metrics"]["unordered_recall"] for point in same),
        "diversity": fmean(point["metrics"]["diversity"] for point in same),
        "latency": fmean(point["latency"]["median_ms"] for point in same),
        "p99": fmean(point["latency"]["p99_ms"] for point in same),
    }


def precision(result: StudyResult) -> Iterator[list[str]]:
    rows = []
    for run in result.runs_with("precision"):
        seeds = result.seeds(run, "precision")
        for number_, row in enumerate(seeds[0]["rows"]):
            recalls = [seed["rows"][number_]["unordered_recall"] for seed in seeds]
            ratios = [seed["rows"][number_]["ratio"]["value"] for seed in seeds]
            rows.append(
                [
                    result.runs[run]["title"], str(len(seeds)), row["features"], row["arithmetic"],
                    over_seeds(fmean(recalls), recalls), over_seeds(fmean(ratios), ratios),
                ]
            )  # fmt: skip
    if rows:
        yield [
            "## Number formats", "",
            f"{sentence(protocol(result, 'precision'))} Ratios are to FP32, seed by seed; brackets hold the least and "
            "the largest.", "",
        ]  # fmt: skip
        yield table(["run", "seeds", "features", "arithmetic", "recall", "ratio"], rows)
