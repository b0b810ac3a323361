"""The folders of a study's runs and evaluations, and whether they are what the study asks for.

::

    WORK/datasets/<dataset>/                  a prepared dataset
    WORK/<study>/<run>-<seed>/                a run: the specification of its training in spec.json, its folder, its log
    WORK/<study>/<run>-<seed>/<evaluation>/   the result of an evaluation, with a spec.json of its own

The specification is written before the training starts, so that an unfinished run is never continued with other
settings. The folder of an evaluation appears as a whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.study import RunSpec, Spec, Study
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.training.run import RUN_FILE
from pinrec_core.validation import read_json

SPEC_FILE = "spec.json"
MACHINE_FILE = "machine.json"
FIGURES_FILE = "figures.json"
RESULTS = "users"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The folder of one seed of one run of a study."""

    study: Study
    run: RunSpec
    seed: int
    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def training(self) -> Path:
        return self.folder / "training"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def spec(self) -> Spec:
        return self.study.training_spec(self.run, self.seed)

    def evaluation(self, kind: str) -> Path:
        return self.folder / kind

    def evaluation_spec(self, kind: str) -> Spec:
        return self.study.evaluation_spec(self.run, self.seed, kind)

    def is_trained(self) -> bool:
        """Whether nothing is left to train. Counting baselines need no training, as they are fitted when judged."""
        return self.run.recommender is not None or (self.training / RUN_FILE).is_file()

    def is_started(self) -> bool:
        return (self.folder / SPEC_FILE).is_file()

    def done_evaluations(self) -> list[str]:
        return [kind for kind in self.run.evaluations if (self.evaluation(kind) / SPEC_FILE).is_file()]

    def missing_evaluations(self) -> list[str]:
        return [kind for kind in self.run.evaluations if kind not in self.done_evaluations()]

    def outdated(self) -> Iterator[tuple[Path, str]]:
        """The folders that were made to another specification than the study's now, each with what differs."""
        difference = _difference(self.folder / SPEC_FILE, self.spec)
        if difference:
            yield self.folder, difference
            return
        for kind in self.run.evaluations:
            difference = _difference(self.evaluation(kind) / SPEC_FILE, self.evaluation_spec(kind))
            if difference:
                yield self.evaluation(kind), difference


def place_of(study: Study, run: RunSpec, seed: int, work: Path) -> Place:
    return Place(study=study, run=run, seed=seed, folder=work / study.name / f"{run.name}-{seed}")


def places_of(study: Study, runs: list[RunSpec], work: Path) -> list[Place]:
    return [place_of(study, run, seed, work) for run in runs for seed in run.seeds]


def settle_outdated(places: list[Place], *, overwrite: bool) -> None:
    """Remove what was made to another specification, or without ``overwrite`` raise a ``ConfigError`` that names it."""
    found = [(path, difference) for place in places for path, difference in place.outdated()]
    if found and not overwrite:
        lines = "\n".join(f"  {path}: {difference}" for path, difference in found)
        raise ConfigError(
            f"{len(found)} results were made to another specification:\n{lines}\n"
            "expected the study's own; --overwrite removes these and makes them again"
        )
    for path, _ in found:
        shutil.rmtree(path)


def write_json(path: Path, plain: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", "utf-8")
    beside.rename(path)  # so that the file appears as a whole or not at all


@contextmanager
def turn(work: Path, *, alone: bool, waiting: Callable[[], None]) -> Iterator[None]:
    """Let pieces of work of all studies in a folder run side by side, and one that measures time ``alone``.

    A piece that has to wait calls ``waiting`` first. While a piece that measures time waits for the others to end,
    no new one starts.
    """
    with (work / ".next").open("a") as next_, (work / ".running").open("a") as running:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(next_, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(running, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(next_, fcntl.LOCK_EX)  # held while waiting for the others, so that no new piece starts
            fcntl.flock(running, kind)
        fcntl.flock(next_, fcntl.LOCK_UN)
        yield


def _difference(path: Path, asked: Spec) -> str:
    """How the specification at ``path`` differs from the one asked for; empty where it is equal or absent."""
    if not path.is_file():
        return ""
    made = _flat(read_json(path, error=DataError, what="a specification"))
    wanted = _flat(json.loads(json.dumps(asked)))
    names = [name for name in sorted(made.keys() | wanted.keys()) if made.get(name) != wanted.get(name)]
    return ", ".join(f"{name}={made.get(name)!r}, now {wanted.get(name)!r}" for name in names)


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
