"""``python -m benchmarks.quality.joint_calibration RUN …``: would a joint search serve more than the calibration does?

A release calibrates compression, the weights of later offsets and those of later steps one after the other. This tries
all their combinations together, on the same calibration users, and judges the choice on held-out users. It also says
what the best combination for the judged users themselves would have served, which no calibration can exceed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.evaluation.opening import known_request, known_requests, open_run, task_for_subjects
from pinrec_core.release.calibration import (
    CALIBRATION_REQUESTS,
    DISCOUNTS,
    THRESHOLD_USERS,
    KnownRequest,
    calibrate_merge_cosine,
    sample_embeddings,
    targets_served,
    with_settings,
)
from pinrec_core.release.indexed_model import IndexedModel

RATIOS = (1.0, 1.3, 1.6, 2.0, 3.0, 4.0)
"""Generated embeddings per kept one that are tried; 1 keeps all."""


def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs.", show_default=False)],
    embeddings: Annotated[int | None, typer.Option(help="Embeddings of a request, as in the studies.")] = None,
    offsets: Annotated[str, typer.Option(help="Offsets of a step, by commas.")] = "1",
    targets: Annotated[int, typer.Option(help="Items that are asked for, per user.", min=1)] = 8,
) -> None:
    """Compare the calibration of a run with a joint search of all that it calibrates for lists.

    Example: python -m benchmarks.quality.joint_calibration runs/quality/ml100k/mt_oc-0/training --embeddings 12
    --offsets 1,3
    """
    torch.set_num_threads(1)
    table = Table("run", "chosen by", "embeddings per kept one", "offset discount", "step discount", "served, ratio")
    for run in runs:
        task = task_for_subjects([str(run)], targets=targets)
        chosen = [int(offset) for offset in offsets.split(",")]
        indexed = open_run(str(run), task, embeddings=embeddings, offsets=chosen).indexed
        budget = indexed.default_budget
        judged = [known_request(case, budget) for case in task.cases(ItemCatalogue.open(task.dataset))]
        known = known_requests(task, budget)
        for row in compared(indexed, known, judged):
            table.add_row(run.resolve().parent.name, *row)
    Console(width=120).print(table)


def compared(
    indexed: IndexedModel, known: Sequence[KnownRequest], judged: Sequence[KnownRequest]
) -> list[tuple[str, ...]]:
    """Who chose, the three settings, and the targets of ``judged`` requests served, over the present calibration's."""
    sample = sample_embeddings(indexed, known[:THRESHOLD_USERS])
    names = list(DISCOUNTS)
    grid = list(itertools.product(RATIOS, *(DISCOUNTS[name] for name in names)))
    cosine = {ratio: calibrate_merge_cosine(sample, ratio) if ratio > 1 else 1.0 for ratio in RATIOS}
    tried = [
        with_settings(indexed, merge_cosine=cosine[ratio], **dict(zip(names, discounts, strict=True)))
        for ratio, *discounts in grid
    ]
    on_known = targets_served(tried, known[:CALIBRATION_REQUESTS]).mean(axis=0)
    present, *on_judged = targets_served([indexed, *tried], judged).mean(axis=0)
    of_grid = np.array(on_judged)
    generation, kept = indexed.generation, indexed.calibration.compression_ratio
    rows = [("one after the other", f"{kept:.2f}", *(f"{getattr(generation, name):g}" for name in names), "1")]
    for who, choice in (("jointly, the most", on_known.argmax()), ("by the judged users themselves", of_grid.argmax())):
        rows.append((who, *(f"{value:g}" for value in grid[choice]), f"{of_grid[choice] / present:.4f}"))
    return rows


if __name__ == "__main__":
    typer.run(main)
