"""The one file that knows how PinRec trains and evaluates: it turns a study into calls and answers into plain data.

Nothing here decides what is measured. Nothing is compared either, because a comparison needs all runs of a study.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine_card
from benchmarks.quality import budgets
from benchmarks.quality.study import EvaluationSettings, RunSpec, Study
from benchmarks.quality.work_folder import FIGURES_FILE, MACHINE_FILE, RESULTS, SPEC_FILE, Place, write_json
from pinrec_core.config.sections import ModelConfig, Variant
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.judging import judge
from pinrec_core.evaluation.opening import open_run, open_subject
from pinrec_core.evaluation.protocol import EvaluationTask, Protocol
from pinrec_core.evaluation.result import EvaluationResult
from pinrec_core.evaluation.studies.budget_sweep import count_outcomes, sweep_budget
from pinrec_core.evaluation.studies.controllability import hits_by_desired_outcome
from pinrec_core.evaluation.studies.embeddings_per_step import sweep_embeddings_per_step
from pinrec_core.evaluation.studies.precision import compare_precisions
from pinrec_core.evaluation.subjects import ModelSubject, Subject
from pinrec_core.files.output_folder import built_beside
from pinrec_core.generation.defaults import default_generation, with_embeddings
from pinrec_core.preparation.report import FILE_NAME as PREPARE_REPORT
from pinrec_core.training.metrics import Progress
from pinrec_core.training.run import Run
from pinrec_core.training.start import train
from pinrec_core.validation import read_json, to_plain

CHECKPOINT_SECONDS = 60.0
_PROTOCOLS = {
    "held_out": Protocol.HELD_OUT, "cold": Protocol.COLD, "held_out_offline": Protocol.HELD_OUT_OFFLINE,
    "leave_one_out": Protocol.LEAVE_ONE_OUT,
}  # fmt: skip
"""The protocol of each kind of evaluation that gives lists. All other kinds use ``HELD_OUT``."""
_LOG_COUNTS = ("rows_read", "collapsed_events", "quarantined_events", "query_events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The result of one evaluation: plain ``figures``, and by name the contribution of each user."""

    figures: dict[str, Any]
    users: dict[str, EvaluationResult] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        write_json(folder / FIGURES_FILE, self.figures)
        for name, result in self.users.items():
            result.save(folder / RESULTS / name)


def check(study: Study, dataset: Path) -> None:
    """Refuse what cannot work before hours of training: check every model and evaluation, and that users can be judged.

    Raises ``ConfigError`` that names the run.
    """
    manifest = DatasetManifest.load(dataset)
    unknown = [name for name in study.evaluation.budget if name not in manifest.outcomes]
    require(not unknown, "evaluation.budget", unknown, f"outcomes of {list(manifest.outcomes)}", error=ConfigError)
    _check_somebody_is_judged(study, dataset, manifest)
    for run in study.runs.values():
        if run.recommender is not None:
            continue
        require("budget" not in run.evaluations or bool(study.evaluation.budget), "evaluation.budget", [],
                f"two outcomes, which the budget of run {run.name!r} moves between", error=ConfigError)  # fmt: skip
        try:
            model = _model_config(run, manifest)
            for kind in run.evaluations:
                for embeddings, offsets in _generated(kind, model, study.evaluation):
                    with_embeddings(default_generation(model), model, embeddings=embeddings, offsets=offsets)
        except ConfigError as error:
            raise ConfigError(f"{study.name}, run {run.name!r}: {error}") from error


def _check_somebody_is_judged(study: Study, dataset: Path, manifest: DatasetManifest) -> None:
    catalogue = ItemCatalogue.open(dataset)
    kinds = {kind for run in study.runs.values() for kind in run.evaluations}
    for protocol in sorted({_PROTOCOLS.get(kind, Protocol.HELD_OUT) for kind in kinds}):
        task = _task(study, dataset, manifest, protocol)
        require(next(task.cases(catalogue), None) is not None, "evaluation.targets", study.evaluation.targets,
                f"so few that a user for the protocol {protocol} has them, with "
                f"split.evaluation_share={study.evaluation_share}", error=ConfigError)  # fmt: skip


def _task(study: Study, dataset: Path, manifest: DatasetManifest, protocol: Protocol) -> EvaluationTask:
    return EvaluationTask(
        dataset=dataset, manifest=manifest, protocol=protocol, evaluation_share=study.evaluation_share,
        held_out_last=study.held_out_last, targets=study.evaluation.targets,
        max_users=None if protocol.left_out else study.evaluation.max_users,
    )  # fmt: skip


def train_run(
    place: Place, dataset: Path, *, id_tables: Path | None, device: str, report: Callable[[str], None]
) -> None:
    """Train one seed of a run. Where an earlier process was killed, training goes on from its last checkpoint."""
    run = place.run
    write_json(place.folder / SPEC_FILE, place.spec)
    write_json(place.folder / MACHINE_FILE, machine_card().to_dict())
    told = 0

    def tell(now: Progress) -> None:
        nonlocal told
        if len(now.epochs) > told:
            told = len(now.epochs)
            epoch = now.epochs[-1]
            held_out = "–" if epoch.held_out_loss is None else f"{epoch.held_out_loss:.3f}"
            report(
                f"epoch {epoch.epoch}/{run.epochs}  loss {epoch.loss:.3f}  held-out {held_out}  "
                f"{epoch.interactions_per_second:,.0f} interactions/s"
            )

    train(
        dataset, place.training, model_config=_model_config(run, DatasetManifest.load(dataset)),
        objective_config=run.configuration().objective, training_config=place.study.training_config(run, place.seed),
        device=device, id_tables=id_tables,
        checkpoint_seconds=CHECKPOINT_SECONDS, report=tell, announce=report,
    )  # fmt: skip


def evaluate_run(place: Place, dataset: Path, kinds: list[str], *, device: str, report: Callable[[str], None]) -> None:
    """Take the named evaluations of one trained run, and save each in its own folder."""
    if place.run.recommender is not None:
        write_json(place.folder / SPEC_FILE, place.spec)
        write_json(place.folder / MACHINE_FILE, machine_card().to_dict())
    evaluations = _Judge(place, dataset, device)
    for kind in kinds:
        report(f"evaluating: {kind}")
        card = machine_card().to_dict()  # before it starts, because the commit may change until it ends
        findings: Findings = getattr(evaluations, kind)()
        target = place.evaluation(kind)
        with built_beside(target) as folder:
            findings.save(folder)
            write_json(folder / SPEC_FILE, place.evaluation_spec(kind))
            write_json(folder / MACHINE_FILE, card)


def dataset_card(dataset: Path) -> dict[str, Any]:
    """What the report says of a dataset; under ``log`` the counts of `pinrec prepare`, where that made the dataset."""
    manifest = DatasetManifest.load(dataset)
    report = dataset / PREPARE_REPORT
    counts = read_json(report, error=DataError, what="the report of `pinrec prepare`") if report.is_file() else {}
    return {
        "log": {name: counts[name] for name in _LOG_COUNTS if name in counts},
        "name": manifest.name, "users": manifest.num_users, "items": manifest.num_items, "events": manifest.num_events,
        "outcomes": dict(zip(manifest.outcomes, manifest.outcome_share, strict=True)),
    }  # fmt: skip


def training_figures(place: Place) -> dict[str, Any]:
    """What the report says of a finished training; empty for a counting baseline, which is not trained."""
    if place.run.recommender is not None:
        return {}
    run = Run.load(place.training)
    return {**run.metrics, "model": to_plain(run.model), "objective": to_plain(run.objective)}


class _Judge:
    """The evaluations of one run: one method per kind of ``study.EVALUATIONS``."""

    def __init__(self, place: Place, dataset: Path, device: str) -> None:
        self.place = place
        self.settings = place.study.evaluation
        self.dataset = dataset
        self.device = device
        self.manifest = DatasetManifest.load(dataset)
        self.catalogue = ItemCatalogue.open(dataset)

    def held_out(self) -> Findings:
        """Recall, diversity and coverage for held-out users: at E embeddings, at equal items, and as served."""
        return self._lists("held_out")

    def cold(self) -> Findings:
        """The same for the first items of users without a history."""
        return self._lists("cold")

    def held_out_offline(self) -> Findings:
        """As ``held_out``, with embeddings that are made ahead of the request."""
        return self._lists("held_out_offline")

    def leave_one_out(self) -> Findings:
        """The rank of every user's last item in the whole catalogue, without the other items that the user has seen."""
        return self._lists("leave_one_out")

    def controllability(self) -> Findings:
        """All budget on each outcome in turn; a model without conditioning answers every outcome alike."""
        subject = self._model("controllability")
        names = self.manifest.outcomes
        hits = hits_by_desired_outcome(subject, self.cases, k=self.settings.k)
        hits = np.broadcast_to(hits, (len(names), *hits.shape[1:]))  # [O, users, Z]
        true = np.stack([case.target_outcome for case in self.cases])
        own = np.take_along_axis(hits, true[None].astype(np.int64), axis=0)[0]
        arrays: dict[str, np.ndarray] = {"target_outcome": true, "own_outcome_hit": own}
        for outcome, name in enumerate(names):
            is_true = true == outcome
            arrays |= {
                f"hit_desired_{outcome}": hits[outcome],
                f"own_hits_{name}": (hits[outcome] & is_true).sum(axis=1),
                f"own_targets_{name}": is_true.sum(axis=1),
                f"other_hits_{name}": (hits[outcome] & ~is_true).sum(axis=1),
                f"other_targets_{name}": (~is_true).sum(axis=1),
            }
        figures = {
            "users": len(self.cases),
            "embeddings": self.settings.outcome_embeddings,
            "own_outcome_recall": float(own.mean()),
        }
        return Findings(figures=figures, users={"controllability": self._result("controllability", figures, arrays)})

    def steps(self) -> Findings:
        """Recall, diversity and latency by the number of embeddings per step, at a constant total."""
        subject = self._model("steps")
        load_average = os.getloadavg()[0]
        model = subject.indexed.model.config
        points = list(
            sweep_embeddings_per_step(
                subject, self.cases, total=_total(model, self.settings), k=self.settings.k,
                offsets_per_step=_widths(model, self.settings), requests=self.settings.latency_requests,
            )
        )  # fmt: skip
        found = [(p, p.result.metrics | {"latency": p.latency.to_dict(), "steps": p.steps}) for p in points]
        return Findings(
            figures={"points": [point.to_dict() for point in points], "load_average": load_average},
            users={f"steps-{p.offsets_per_step}": replace(p.result, metrics=metrics) for p, metrics in found},
        )

    def budget(self) -> Findings:
        """What is served as the budget moves from one outcome to another."""
        start, end = swept = self.settings.budget
        points = sweep_budget(
            self._model("budget"), self.cases, from_outcome=self.manifest.outcomes.index(start),
            to_outcome=self.manifest.outcomes.index(end), num_items=self.settings.num_items,
            shares=self.settings.budget_shares, item_outcomes=count_outcomes(
                self._task(Protocol.HELD_OUT).training_histories(), self.catalogue, len(self.manifest.outcomes)
            ),
        )  # fmt: skip
        figures = {"from": start, "to": end, "points": [point.to_dict() for point in points]}
        arrays = {name: values for point in points for name, values in budgets.arrays(point, swept).items()}
        return Findings(figures=figures, users={budgets.BUDGET: self._result(budgets.BUDGET, figures, arrays)})

    def precision(self) -> Findings:
        """Serving's number formats against FP32 throughout."""
        rows = compare_precisions(self._model("precision"), self.cases, k=self.settings.k)
        figures = {"rows": [row.to_dict() for row in rows]}
        arrays = {f"hit_{row.features}_{row.arithmetic}": row.hit for row in rows}
        return Findings(figures=figures, users={"precision": self._result("precision", figures, arrays)})

    @cached_property
    def cases(self) -> list[EvaluationCase]:
        """The held-out users, on whom all evaluations except ``_lists`` are made."""
        return list(self._task(Protocol.HELD_OUT).cases(self.catalogue))

    def _lists(self, kind: str) -> Findings:
        settings, task = self.settings, self._task(_PROTOCOLS[kind])
        result = judge(
            self._subject(kind, task), task, k=settings.k, equal_embeddings=settings.embeddings,
            num_items=settings.num_items,
        )  # fmt: skip
        return Findings(figures=result.metrics, users={kind: result})

    def _task(self, protocol: Protocol) -> EvaluationTask:
        return _task(self.place.study, self.dataset, self.manifest, protocol)

    def _subject(self, kind: str, task: EvaluationTask) -> Subject:
        if self.place.run.recommender is not None:
            return open_subject(self.place.run.recommender, task)
        return self._model(kind, task)

    def _model(self, kind: str, task: EvaluationTask | None = None) -> ModelSubject:
        """The trained model, indexed and calibrated for the embeddings that this evaluation generates."""
        model = Run.load(self.place.training).model
        embeddings, offsets = _generated(kind, model, self.settings)[0]
        subject = open_run(
            str(self.place.training), task or self._task(Protocol.HELD_OUT), embeddings=embeddings,
            offsets=offsets, device=self.device,
        )  # fmt: skip
        subject.name = self.place.run.name
        return subject

    def _result(self, protocol: str, metrics: dict[str, Any], arrays: dict[str, np.ndarray]) -> EvaluationResult:
        return EvaluationResult(
            subject=self.place.run.name, protocol=protocol, metrics=metrics,
            user_id=[case.user_id for case in self.cases], arrays=arrays,
        )  # fmt: skip


def _model_config(run: RunSpec, manifest: DatasetManifest) -> ModelConfig:
    return run.configuration().model_for(
        variant=Variant(str(run.variant)), num_outcomes=len(manifest.outcomes),
        num_surfaces=len(manifest.surfaces), feature_width=manifest.feature_width,
    )  # fmt: skip


def _generated(kind: str, model: ModelConfig, settings: EvaluationSettings) -> list[tuple[int, tuple[int, ...]]]:
    """What an evaluation generates per user: number of embeddings and offsets of a step. A sweep has several pairs."""
    reach = tuple(offset for offset in settings.offsets if offset <= model.max_offset)
    if kind == "steps":
        return [(_total(model, settings), tuple(range(1, W + 1))) for W in _widths(model, settings)]
    if kind == "controllability":
        return [(settings.outcome_embeddings * model.num_conditions, reach)]
    if kind == "leave_one_out":  # it ranks by the embeddings of the first step at δ = 1 and ignores later ones
        return [(model.num_conditions, (1,))]
    return [(settings.embeddings, reach)]


def _total(model: ModelConfig, settings: EvaluationSettings) -> int:
    """The number of embeddings that each point of the sweep generates, over all outcomes."""
    return model.num_conditions * settings.sweep_embeddings


def _widths(model: ModelConfig, settings: EvaluationSettings) -> tuple[int, ...]:
    """Offsets per step of the sweep. A variant that is not multi-token generates the total in one way only."""
    return settings.offsets_per_step if model.variant.multi_token else (1,)
