"""The claims about outcomes and budgets: what conditioning on an outcome finds, and what a budget delivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.quality.budgets import BUDGET, Arm
from benchmarks.quality.goals import AnyClaim, Claim, Found, Goal, Summary
from benchmarks.quality.measures import Measure
from benchmarks.quality.results import StudyResult

OUTCOME_LOGS = ("yelp", "trivago", "ml100k", "tmall", "taobao")
LEAST_TARGETS = 100
"""An outcome with fewer targets in the judged users decides nothing: one of them found more or less moves the ratio by
more than a goal is above 1."""
LIFTED = 1.02
STEERED = "mt_oc"
Sweep = dict[str, Any]
"""One seed's sweep of budgets, as plain data."""
Worst = Callable[[Sequence[float]], float]
OfSeed = Callable[[Sweep], float]


def oc_over_uc(study: str, outcomes: Sequence[str]) -> Iterator[AnyClaim]:
    """Outcome conditioning at the strength that it is calibrated to: of all outcomes together, and of each."""
    if study not in OUTCOME_LOGS:
        return

    def figure(
        claim: str, metric: str, goal: Goal, name: str, per: str | None = None, only_with: Claim | None = None
    ) -> Claim:
        of, against = (Measure(run=run, evaluation="controllability", name=name, per=per) for run in ("oc", "uc"))
        return Claim(
            group="oc-over-uc", claim=claim, study=study, metric=metric, goal=goal, of=of, against=against,
            overview=per is None, only_with=only_with, least_targets=0 if per is None else LEAST_TARGETS,
        )  # fmt: skip

    yield figure(
        "OC over UC, conditioned on the target's outcome", "unordered recall@10", Goal(compare=">=", bound=1.02),
        "own_outcome_hit",
    )  # fmt: skip
    own = [
        figure(
            f"OC with all budget on {outcome}, over UC", f"unordered recall@10 of {outcome}",
            Goal(compare=">=", bound=1.0), f"own_hits_{outcome}", f"own_targets_{outcome}",
        ) for outcome in outcomes
    ]  # fmt: skip
    yield Summary(
        group="oc-over-uc", claim="OC with all budget on one outcome, over UC: outcomes with >= 1.02x", study=study,
        metric="share of the outcomes", evaluation="controllability",
        measures=[measure for claim in own for measure in claim.measures],
        make=lambda result: _lifted(own, result), goal=Goal(compare=">", bound=0.5, of="value"), overview=True,
    )  # fmt: skip
    for outcome, lifts in zip(outcomes, own, strict=True):
        yield lifts
        yield figure(
            f"all budget on {outcome} lowers the others", f"unordered recall@10 of all but {outcome}",
            Goal(compare="<", bound=1.0), f"other_hits_{outcome}", f"other_targets_{outcome}", only_with=lifts,
        )  # fmt: skip


def _lifted(own: Sequence[Claim], result: StudyResult) -> Found | None:
    """The share of the outcomes with enough targets whose own conditioning finds at least ``LIFTED`` times as much."""
    rows = [row for claim in own if (row := claim.row(result)) is not None and row["goal"] is not None]
    if not rows:
        return None
    by_seed = [
        [row["by_seed"][seed] >= LIFTED * row["baseline_by_seed"][seed] for row in rows]
        for seed in range(min(row["seeds"] for row in rows))
    ]
    return Found(
        value=_share([row["ratio"] is not None and row["ratio"] >= LIFTED for row in rows]),
        by_seed=[_share(of_seed) for of_seed in by_seed],
        seeds=len(by_seed), targets=sum(row["targets"] for row in rows),
    )  # fmt: skip


def _share(true: Sequence[bool]) -> float:
    return sum(true) / len(true)


def budget_delivered(study: str, outcomes: Sequence[str]) -> Iterator[AnyClaim]:
    """What a budget asks for is what its outcomes' own embeddings bring, and more of it brings more."""
    if study not in OUTCOME_LOGS:
        return

    def summary(claim: str, metric: str, goal: Goal, worst: Worst, of_seed: OfSeed) -> Summary:
        return Summary(
            group="steering", claim=claim, study=study, metric=metric, evaluation=BUDGET,
            measures=[Arm(STEERED, 1.0).recall()], make=lambda result: _over_seeds(result, worst, of_seed),
            goal=goal, overview=True,
        )  # fmt: skip

    yield summary(
        "the share that own embeddings deliver is the budget", "largest distance over arms and seeds",
        Goal(compare="<=", bound=0.02, of="value"), max, _largest_distance,
    )  # fmt: skip
    yield summary(
        "the share that own embeddings deliver rises with the budget", "smallest rise between arms, over seeds",
        Goal(compare=">", bound=0.0, of="value"), min, _smallest_rise,
    )  # fmt: skip


def _over_seeds(result: StudyResult, worst: Worst, of_seed: OfSeed) -> Found | None:
    """The worst of the seeds; None where none counted its items by the embeddings that brought them."""
    sweeps = [sweep for sweep in result.seeds(STEERED, BUDGET) if all("own_mix" in p for p in sweep["points"])]
    if not sweeps:
        return None
    found = [of_seed(sweep) for sweep in sweeps]
    return Found(value=worst(found), by_seed=found, seeds=len(found))


def _largest_distance(sweep: Sweep) -> float:
    """Between the share asked for and that delivered, over all arms and both outcomes."""
    start, end = sweep["from"], sweep["to"]
    return max(
        abs(point["own_mix"][outcome] - asked)
        for point in sweep["points"]
        for outcome, asked in ((start, 1 - point["share"]), (end, point["share"]))
    )


def _smallest_rise(sweep: Sweep) -> float:
    """Of the delivered share of the outcome that the budget moves to, from one arm to the next."""
    delivered = [point["own_mix"][sweep["to"]] for point in sweep["points"]]
    return min(after - before for before, after in pairwise(delivered))
