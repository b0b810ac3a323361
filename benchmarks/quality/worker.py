"""Does one piece of a study in a process of its own: it trains one seed of a run, evaluates it, or both.

``schedule`` starts this process and writes the job to its standard input, as one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.quality import judge
from benchmarks.quality.study import TIMED, load_study
from benchmarks.quality.work_folder import Place, place_of, turn
from pinrec_core.errors import PinRecError


def new_job(
    study: str, place: Place, *, work: Path, dataset: Path, device: str, train: bool, evaluations: list[str]
) -> dict[str, Any]:
    """The job for one seed of a run. ``study`` is a name or a path, as ``load_study`` takes it."""
    # Paths are absolute, because the worker runs in another folder.
    given = str(Path(study).resolve()) if study.endswith(".toml") else study
    return {
        "study": given, "run": place.run.name, "seed": place.seed, "work": str(work.resolve()),
        "dataset": str(dataset.resolve()), "device": device, "train": train, "evaluations": evaluations,
    }  # fmt: skip


def perform(job: Mapping[str, Any]) -> None:
    """Do the job. Raises what training and evaluation raise."""
    study = load_study(job["study"])
    run, work, dataset = study.runs[job["run"]], Path(job["work"]), Path(job["dataset"])
    place = place_of(study, run, job["seed"], work)
    alone = TIMED in job["evaluations"]
    with turn(work, alone=alone, waiting=lambda: _tell("waiting for pieces of other studies in this folder")):
        if job["train"]:
            id_tables = None
            if run.id_tables is not None:
                source = study.runs[run.id_tables]
                id_tables = place_of(study, source, study.pretraining_seed(run, place.seed), work).training
            judge.train_run(place, dataset, id_tables=id_tables, device=job["device"], report=_tell)
        judge.evaluate_run(place, dataset, job["evaluations"], device=job["device"], report=_tell)


def _tell(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S}  {line}", file=sys.stderr, flush=True)


def _end_with_the_scheduler() -> None:
    """Wait until the scheduler's end of standard input closes, then end this process."""
    while os.read(sys.stdin.fileno(), 1):  # not through sys.stdin, whose lock would block the end of this process
        pass
    os._exit(1)  # at once: a half-written result lies beside its place and is never taken for a whole one


def main() -> None:
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_scheduler, daemon=True).start()
    try:
        perform(job)
    except PinRecError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
