"""``python -m benchmarks.quality.serving_cost RUN``: the processor time that a run takes to calibrate and to answer.

Time of the processor and not of the clock, so that two versions of the code can be compared on a machine that does
other work as well. Run it in a checkout of each version, on a run trained by it, a few times in turn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.evaluation.opening import open_run, task_for_subjects
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.request import Request

REQUESTS = 192


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.", show_default=False)],
    batch: Annotated[int, typer.Option(help="Requests that are answered together.", min=1)] = 32,
    rounds: Annotated[int, typer.Option(help="Times that the requests are answered; the median counts.", min=1)] = 3,
) -> None:
    """Print seconds of calibration, and milliseconds per request of generation and of retrieval, on one thread."""
    torch.set_num_threads(1)
    task = task_for_subjects([str(run)], targets=8)
    began = time.process_time()
    model = open_run(str(run), task).indexed
    typer.echo(f"calibration {time.process_time() - began:.2f} s")
    cases = [*task.cases(ItemCatalogue.open(task.dataset))][:REQUESTS]
    requests = [case.request(model.default_budget) for case in cases]
    answered(model, requests[:batch])  # the first call sets things up
    times = [
        [answered(model, requests[start : start + batch]) for start in range(0, len(requests), batch)]
        for _ in range(rounds)
    ]
    for name, part in (("generation", 0), ("retrieval", 1)):
        seconds = median(sum(one[part] for one in one_round) for one_round in times)
        typer.echo(f"{name} {1e3 * seconds / len(requests):.3f} ms")


def answered(model: IndexedModel, requests: Sequence[Request]) -> tuple[float, float]:
    """Seconds of generation and of retrieval for one batch."""
    began = time.process_time()
    embedding = model.generate(requests)
    generated = time.process_time()
    model.retrieve(embedding, requests)
    return generated - began, time.process_time() - generated


if __name__ == "__main__":
    typer.run(main)
