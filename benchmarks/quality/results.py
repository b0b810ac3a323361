"""All figures of a study in one JSON file, with every comparison that the report makes.

The values of single users stay in the work folder; intervals and ratios are computed from them here, once. The file
names no path of the machine, and it is the same byte for byte when it is written again from the same work folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import MachineCard
from benchmarks.quality.budgets import BUDGET, Arm
from benchmarks.quality.judge import dataset_card, training_figures
from benchmarks.quality.measures import Measure, Seeds, comparison, figure
from benchmarks.quality.study import EVALUATIONS, Study, Times
from benchmarks.quality.work_folder import FIGURES_FILE, MACHINE_FILE, RESULTS, Place, write_json
from pinrec_core.config.sections import Variant
from pinrec_core.errors import DataError
from pinrec_core.evaluation.result import EvaluationResult
from pinrec_core.evaluation.studies.controllability import controllability_matrix
from pinrec_core.validation import read_json

FOLDER = Path(__file__).parents[1] / "results" / "quality"
CONTROL_REFERENCE = "uc"
WHAT = "the figures of a study"
LIST_MEASURES = {
    "held_out": ("hit", "hit_equal_items", "served_hit"),
    "cold": ("hit", "hit_equal_items", "served_hit"),
    "held_out_offline": ("hit", "hit_equal_items", "served_hit"),
    "leave_one_out": ("hit", "ndcg"),
}
"""The measures shown for every run that took an evaluation. Ablations are compared by those of the first one taken."""
_DIGITS = 6
_OF_THE_DAY = ("commit", "date", "load_average")
"""The fields of a machine's card that differ from one piece of work to the next."""
Pairs = Iterable[tuple[Measure, Measure]]
Part = tuple[str, str]
"""One seed of one run, as ``uc-0``, and ``TRAINING`` or an evaluation of it."""
TRAINING = "training"


class StudyResult:
    """The figures of a study as ``collect`` made them. ``plain`` is the content of the file."""

    def __init__(self, plain: dict[str, Any]) -> None:
        self.plain = plain
        self.name: str = plain["study"]
        self.dataset: dict[str, Any] = plain["dataset"]
        self.times = Times(plain["dataset"].get("times", Times.SECONDS))  # older files do not say it
        self.log: dict[str, int] = plain["dataset"]["log"]  # counts of `pinrec prepare`
        self.outcomes: list[str] = list(plain["dataset"]["outcomes"])
        self.runs: dict[str, Any] = plain["runs"]

    def figure(self, measure: Measure) -> dict[str, Any] | None:
        return self.plain["figures"].get(measure.key)

    def comparison(self, of: Measure, against: Measure) -> dict[str, Any] | None:
        return self.plain["comparisons"].get(_pair(of, against))

    def seeds(self, run: str, kind: str) -> list[dict[str, Any]]:
        """The figures of an evaluation, one entry per seed that took it."""
        found = [seed["evaluations"].get(kind) for seed in self.runs.get(run, {}).get("seeds", {}).values()]
        return [figures for figures in found if figures is not None]

    def runs_with(self, kind: str) -> list[str]:
        """The runs of which at least one seed took the evaluation."""
        return [run for run in self.runs if self.seeds(run, kind)]


def load_all(folder: Path) -> list[StudyResult]:
    """Every study of the folder, sorted by name. Raises ``DataError`` for a file that is none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(StudyResult(read_json(path, error=DataError, what=WHAT)))
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: expected the results of a study; collect them again ({error!r})") from error
    return found


def collect(study: Study, places: Sequence[Place], dataset: Path, pairs: Pairs) -> dict[str, Any]:
    """The figures of everything that is finished, and the comparisons of those ``pairs`` whose sides both are."""
    trained = [place for place in places if place.is_started() and place.is_trained()]
    users = _Users(trained)
    machines, runs = _machines_and_runs(study, trained)
    pairs = [*pairs, *_ablation_pairs(study)]
    measures = {measure.key: measure for measure in _list_measures(study)}
    return {
        "study": study.name, "title": study.title,
        "dataset": dataset_card(dataset) | {"filter": study.filter, "times": study.times.value},
        "split": {"evaluation_share": study.evaluation_share, "held_out_last": study.held_out_last},
        "evaluation": asdict(study.evaluation),
        "machines": machines, "runs": runs, "not_run": _not_run(study, trained),
        "ablations": [asdict(ablation) for ablation in study.ablations],
        "figures": {key: figure(m, users.of(m)) for key, m in measures.items() if users.of(m)},
        "comparisons": {
            _pair(of, against): comparison(of, against, users.of(of), users.of(against))
            for of, against in pairs if users.of(of) and users.of(against)
        },
        "controllability": _controllability(study, users, list(dataset_card(dataset)["outcomes"])),
    }  # fmt: skip


def save(plain: dict[str, Any], folder: Path) -> Path:
    path = folder / f"{plain['study']}.json"
    write_json(path, rounded(plain))
    return path


def recorded(folder: Path, study: Study) -> set[Part]:
    """The parts of the study, trainings and evaluations, that its file in ``folder`` has figures of."""
    path = folder / f"{study.name}.json"
    if not path.is_file():
        return set()
    runs = read_json(path, error=DataError, what=WHAT).get("runs", {})
    return {
        (f"{name}-{seed}", kind) for name, run in study.runs.items() for seed in run.seeds
        if (found := runs.get(name, {}).get("seeds", {}).get(str(seed)))
        for kind in (TRAINING, *run.evaluations) if kind == TRAINING or kind in found["evaluations"]
    }  # fmt: skip


class _Users:
    """The values of single users, which are read when they are first needed."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self.of_run = lru_cache(maxsize=8)(self._of_run)  # one evaluation takes tens of MiB at most

    def of(self, measure: Measure) -> Seeds:
        return self.of_run(measure.run, measure.evaluation)

    def _of_run(self, run: str, evaluation: str) -> Seeds:
        kind = evaluation.partition("-")[0]
        found = {}
        for place in self._places:
            folder = place.evaluation(kind) / RESULTS / evaluation
            if place.run.name == run and kind in place.run.evaluations and folder.is_dir():
                found[place.seed] = EvaluationResult.load(folder)
        return found


def _machines_and_runs(study: Study, places: Sequence[Place]) -> tuple[dict[str, Any], dict[str, Any]]:
    machines: dict[str, Any] = {}
    runs: dict[str, Any] = {}
    for place in places:
        done = place.done_evaluations()
        # The cards of the training and of each evaluation: they may be of different days, and of different code.
        cards = [_card(folder) for folder in (place.folder, *(place.evaluation(kind) for kind in done))]
        slug = MachineCard(**cards[0]).slug
        machines[slug] = {name: value for name, value in cards[0].items() if name not in _OF_THE_DAY}
        run = place.run
        entry = runs.setdefault(
            run.name,
            {"title": run.title, "variant": run.variant, "recommender": run.recommender, "preset": run.preset,
             "settings": list(run.settings), "epochs": run.epochs, "id_tables": run.id_tables, "seeds": {}},
        )  # fmt: skip
        evaluations = {
            kind: read_json(place.evaluation(kind) / FIGURES_FILE, error=DataError, what="figures of an evaluation")
            for kind in done
        }
        entry["seeds"][str(place.seed)] = {
            "machine": slug, "commits": sorted({card["commit"] for card in cards}),
            "dates": sorted({card["date"] for card in cards}),
            "training": training_figures(place), "evaluations": evaluations,
        }  # fmt: skip
    return machines, runs


def _not_run(study: Study, trained: Sequence[Place]) -> list[str]:
    """The runs of the study that have seeds which are not trained yet, with these seeds."""
    missing = []
    for run in study.runs.values():
        seeds = sorted(set(run.seeds) - {place.seed for place in trained if place.run is run})
        if seeds:
            missing.append(f"{run.title} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})")
    return missing


def _card(folder: Path) -> dict[str, Any]:
    return read_json(folder / MACHINE_FILE, error=DataError, what="the card of a machine")


def _list_measures(study: Study) -> Iterable[Measure]:
    for run in study.runs.values():
        for evaluation in run.evaluations:
            for name in LIST_MEASURES.get(evaluation, ()):
                yield Measure(run=run.name, evaluation=evaluation, name=name)
        if "steps" in run.evaluations:
            for width in study.evaluation.offsets_per_step:
                yield Measure(run=run.name, evaluation=f"steps-{width}", name="hit")
        if BUDGET in run.evaluations:
            for share in study.evaluation.budget_shares:
                yield from Arm(run.name, share).measures(study.evaluation.budget)


def ablation_evaluation(evaluations: Sequence[str]) -> str | None:
    """The evaluation that an ablation is shown by: the first of the reference's evaluations that gives lists."""
    return next((kind for kind in EVALUATIONS if kind in evaluations and kind in LIST_MEASURES), None)


def _ablation_pairs(study: Study) -> Pairs:
    for ablation in study.ablations:
        evaluation = ablation_evaluation(study.runs[ablation.reference].evaluations)
        for name in LIST_MEASURES.get(str(evaluation), ()):
            for run in ablation.runs:
                measure = Measure(run=run, evaluation=str(evaluation), name=name)
                yield measure, Measure(run=ablation.reference, evaluation=str(evaluation), name=name)


def _controllability(study: Study, users: _Users, outcomes: list[str]) -> dict[str, Any]:
    """The controllability matrix of every model with outcomes against the one without, averaged over the seeds."""
    reference = users.of_run(CONTROL_REFERENCE, "controllability")
    matrices: dict[str, Any] = {}
    for run in study.runs.values():
        conditioned = run.variant is not None and Variant(run.variant).outcome_conditioned
        seeds = users.of_run(run.name, "controllability")
        if not (reference and seeds and conditioned):
            continue
        true = next(iter(seeds.values())).arrays["target_outcome"]
        hits = [_mean(seeds, f"hit_desired_{outcome}") for outcome in range(len(outcomes))]
        matrix = controllability_matrix(np.stack(hits), _mean(reference, "hit_desired_0"), true, outcomes)
        matrices[run.name] = {
            "reference": CONTROL_REFERENCE, "seeds": len(seeds), "embeddings": study.evaluation.outcome_embeddings,
            "matrix": matrix.to_dict(),
        }  # fmt: skip
    return matrices


def _mean(seeds: Seeds, name: str) -> np.ndarray:
    return np.mean([result.arrays[name] for result in seeds.values()], axis=0)


def _pair(of: Measure, against: Measure) -> str:
    return f"{of.key} / {against.key}"


def rounded(value: Any) -> Any:
    """``value`` with six significant digits; None for a number that JSON cannot hold, such as infinity."""
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
