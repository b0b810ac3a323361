"""A study: one dataset, the runs that are trained on it, and how they are judged. It is read from a TOML file.

This module knows names and settings, not how anything is trained or where results lie. The fields of its classes are
the keys of the file: ``Study`` (whose split is ``[split]``), ``[evaluation]``, ``[[runs]]`` and ``[[ablations]]``. The
keys of ``[training]`` hold for all runs that do not set them themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pinrec_core.config.presets import Preset, preset
from pinrec_core.config.sections import TrainingConfig, Variant
from pinrec_core.config.settings import apply_settings
from pinrec_core.errors import ConfigError, require
from pinrec_core.evaluation.opening import BASELINES
from pinrec_core.evaluation.studies.budget_sweep import SHARES
from pinrec_core.validation import ListOf, OneOf, check, from_plain, read_toml, to_plain, validated

STUDIES = Path(__file__).parent / "studies"

_LISTS = ("targets", "k", "embeddings", "offsets", "max_users", "num_items")
EVALUATIONS: dict[str, ListOf[str]] = {
    "held_out": _LISTS,
    "cold": _LISTS,
    "held_out_offline": _LISTS,
    "controllability": ("targets", "k", "outcome_embeddings", "offsets", "max_users"),
    "steps": ("targets", "k", "offsets_per_step", "sweep_embeddings", "max_users", "latency_requests"),
    "budget": ("targets", "embeddings", "offsets", "max_users", "num_items", "budget", "budget_shares"),
    "precision": ("targets", "k", "embeddings", "offsets", "max_users"),
    "leave_one_out": ("k",),
}
"""Kinds of evaluation, and the settings that each depends on. A change of any other setting does not outdate it."""
TIMED = "steps"
"""The kind that measures latency. No training or evaluation of any study may run beside it."""
OF_LISTS = ("held_out", "cold", "held_out_offline", "leave_one_out")
"""The kinds that a counting baseline, which has no embeddings, can take."""

Spec = dict[str, Any]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
"""The name of a run or an ablation, which is part of the names of folders and files."""


class Times(StrEnum):
    """How fine the times of a log are."""

    SECONDS = "seconds"
    DAYS = "days"  # within a day the preparation makes up an order, so that little can be said of time


@validated()
class EvaluationSettings:
    """How the runs of a study are judged."""

    targets: Count = 8  # Z: a user's last distinct items
    k: Count = 10  # items per embedding
    embeddings: Count = 12  # E, the same for all variants, except for baselines of one embedding
    offsets: ListOf[Count] = (1,)  # δ of a multi-token variant; those above its Δmax are left out
    outcome_embeddings: Count = 4  # of controllability: the number when all budget is on one outcome
    offsets_per_step: ListOf[Count] = (1, 2, 4, 8, 16)  # W of the sweep of embeddings per step
    sweep_embeddings: Count = 96  # of that sweep, in all per outcome: six steps, as in production, of 16 each
    latency_requests: Count = 200
    budget: ListOf[str] = ()  # of the budget sweep: the outcome it moves from, and the one it moves to
    budget_shares: ListOf[Annotated[float, Field(ge=0, le=1)]] = SHARES  # of the outcome that the sweep moves to
    max_users: Count | None = None  # None for all of them
    num_items: Count = 100  # N, the items served to a user

    def __post_init__(self) -> None:
        check(len(set(self.budget)) == len(self.budget) in (0, 2), "budget", self.budget, "two outcomes: from, to")
        rising = list(self.budget_shares) == sorted(set(self.budget_shares))
        check(rising and bool(self.budget_shares), "budget_shares", self.budget_shares, "rising shares, at least one")


@validated()
class RunSpec:
    """A model to train once per seed, or a counting baseline to fit."""

    name: Name
    title: str
    variant: str | None = None
    recommender: str | None = None  # a name of BASELINES, instead of a variant
    preset: str = "small"
    settings: ListOf[str] = ()  # as after ``pinrec train --set``; those of [training] come first
    epochs: Count = 10
    seeds: ListOf[Annotated[int, Field(ge=0)]] = (0,)
    id_tables: str | None = None  # the run whose ID tables this one starts from
    evaluations: ListOf[str] = ("held_out",)

    def __post_init__(self) -> None:
        one_of_two = (self.variant is None) != (self.recommender is None)
        check(one_of_two, "variant", self.variant, "a variant or a recommender, one of the two")
        unknown = [name for name in self.evaluations if name not in EVALUATIONS]
        check(not unknown, "evaluations", unknown, f"only {list(EVALUATIONS)}")
        check(len(set(self.seeds)) == len(self.seeds) > 0, "seeds", self.seeds, "distinct seeds")
        if self.recommender is not None:
            check(self.recommender in BASELINES, "recommender", self.recommender, f"one of {list(BASELINES)}")
            too_much = [name for name in self.evaluations if name not in OF_LISTS]
            check(not too_much, "evaluations", too_much, f"only {list(OF_LISTS)}: it has no embeddings")
            object.__setattr__(self, "seeds", (0,))  # counting draws nothing at random
        else:
            variants = [variant.value for variant in Variant]
            check(self.variant in variants, "variant", self.variant, f"one of {variants}")
            self.configuration()  # so that it is refused now, and not after hours of other runs
            if self.variant == Variant.DOT_PRODUCT:  # it generates nothing that could be judged
                object.__setattr__(self, "evaluations", ())

    def configuration(self) -> Preset:
        """The preset with this run's settings. Raises ``ConfigError``."""
        return apply_settings(preset(self.preset), self.settings)


@validated()
class Ablation:
    """Runs that differ from their reference in one thing. They are shown with it in one table."""

    name: Name
    title: str
    reference: str
    runs: ListOf[str]
    note: str = ""
    loss_curves: bool = False  # whether to draw the training and the held-out loss by epoch as well


@validated()
class Study:
    """The content of a study's file. ``dataset`` is the name of a mapping that `pinrec prepare --preset` knows."""

    name: str
    title: str
    dataset: str
    evaluation_share: Annotated[float, Field(ge=0, lt=1)]
    held_out_last: Annotated[int, Field(ge=0)]
    evaluation: EvaluationSettings
    runs: Annotated[dict[str, RunSpec], Field(min_length=1)]
    ablations: ListOf[Ablation] = ()
    times: OneOf[Times] = Times.SECONDS
    filter: str = ""  # how the publisher of the log filtered it, in words

    def __post_init__(self) -> None:
        for run in self.runs.values():
            for kind in run.evaluations:  # each judges something that training must not have seen
                if kind == "leave_one_out":
                    require(self.held_out_last > 0, "split.held_out_last", self.held_out_last,
                            f"at least 1, which run {run.name!r} is judged on", error=ConfigError)  # fmt: skip
                else:
                    require(self.evaluation_share > 0, "split.evaluation_share", self.evaluation_share,
                            f"a share of users above 0, whom run {run.name!r} is judged on",
                            error=ConfigError)  # fmt: skip
            if run.id_tables is not None:
                self._check_known(f"runs.{run.name}.id_tables", run.id_tables)
                require(self.runs[run.id_tables].variant == Variant.DOT_PRODUCT, f"runs.{run.name}.id_tables",
                        run.id_tables, "a run of variant dot_product", error=ConfigError)  # fmt: skip
        for ablation in self.ablations:
            for name in (ablation.reference, *ablation.runs):
                self._check_known(f"ablations.{ablation.name}", name)

    def _check_known(self, where: str, name: str) -> None:
        require(name in self.runs, where, name, f"one of {list(self.runs)}", error=ConfigError)

    def pretraining_seed(self, run: RunSpec, seed: int) -> int:
        """The seed of the ID pre-training that this seed starts from: the same one if there is one, else the first."""
        seeds = self.runs[str(run.id_tables)].seeds
        return seed if seed in seeds else seeds[0]

    def with_dependencies(self, names: Iterable[str]) -> list[RunSpec]:
        """The named runs and those that they start from, in the order of the file."""
        wanted: set[str] = set()
        for name in names:
            self._check_known("--only", name)
            wanted |= {name, self.runs[name].id_tables or name}
        return [run for run in self.runs.values() if run.name in wanted]

    def training_config(self, run: RunSpec, seed: int) -> TrainingConfig:
        """How one seed of a run is trained, on the users that this study does not hold out."""
        changes = {
            "epochs": run.epochs, "seed": seed, "evaluation_share": self.evaluation_share,
            "held_out_last": self.held_out_last,
        }  # fmt: skip
        return replace(run.configuration().training, **changes)

    def training_spec(self, run: RunSpec, seed: int) -> Spec:
        """Everything that the result of a training depends on, as plain data with presets and defaults resolved.

        The code and the log behind the prepared dataset are not part of it. After a change of these, make the study
        anew in another folder. Results name the commits that made them.
        """
        if run.recommender is not None:
            return {
                "dataset": self.dataset, "recommender": run.recommender,
                "evaluation_share": self.evaluation_share, "held_out_last": self.held_out_last,
            }  # fmt: skip
        source = None
        if run.id_tables is not None:
            source = self.training_spec(self.runs[run.id_tables], self.pretraining_seed(run, seed))
        chosen = run.configuration()
        return {
            "dataset": self.dataset, "variant": run.variant, "model": dict(chosen.model),
            "objective": to_plain(chosen.objective), "training": to_plain(self.training_config(run, seed)),
            "id_tables": source,
        }  # fmt: skip

    def evaluation_spec(self, run: RunSpec, seed: int, kind: str) -> Spec:
        """Everything that the result of an evaluation depends on, as plain data; see ``training_spec``."""
        used = {name: getattr(self.evaluation, name) for name in EVALUATIONS[kind]}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in used.items()}
        return {"kind": kind, "training": self.training_spec(run, seed), "evaluation": plain}


def study_names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


def load_study(name: str) -> Study:
    """Read a study, given its name in ``studies/`` or the path of another TOML file. Raises ``ConfigError``."""
    path = Path(name) if name.endswith(".toml") else STUDIES / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"STUDY={name!r}: expected one of {study_names()}, or the path of a TOML file")
    raw = read_toml(path, error=ConfigError, what="a study")
    try:
        plain = _plain_study(path.stem, raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return from_plain(Study, plain, source=path)


def _plain_study(name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file as the fields of ``Study``. The keys of ``[training]`` become part of every run."""
    sections = dict(raw)
    for key, kind, written in (
        ("training", dict, "[training]"), ("split", dict, "[split]"), ("evaluation", dict, "[evaluation]"),
        ("runs", list, "[[runs]]"), ("ablations", list, "[[ablations]]"),
    ):  # fmt: skip
        require(isinstance(sections.get(key, kind()), kind), key, raw.get(key), f"{written}", error=ConfigError)
    shared = dict(sections.pop("training", {}))
    settings = shared.pop("settings", [])
    runs: dict[str, Any] = {}
    for given in sections.pop("runs", []):
        merged = {"title": given.get("name"), **({} if "recommender" in given else shared), **given}
        if "recommender" not in given:
            merged["settings"] = [*settings, *given.get("settings", [])]
        key = str(given.get("name"))
        require(key not in runs, "runs.name", key, "a name of its own", error=ConfigError)
        runs[key] = merged
    split = {"evaluation_share": 0.1, "held_out_last": 0} | sections.pop("split", {})
    return {"name": name, "runs": runs, "evaluation": {}} | split | sections
