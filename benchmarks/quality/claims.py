"""The claims of this project and their goals: each becomes one row of ``docs/results/summary.json``.

A claim names a study, the two measures to compare and the goal. The names of runs mean the same in every study:
``uc``, ``oc``, ``mt``, ``mt_oc``, ``pinnerformer``, ``sasrec``, ``popularity-by-surface``, and ``mt_oc_16``, which is
trained on offsets up to 16. A claim that has not been measured yet makes no row; the report lists it as not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.quality.goals import AnyClaim, Claim, Goal, Published
from benchmarks.quality.measures import Measure
from benchmarks.quality.steering_claims import OUTCOME_LOGS, budget_delivered, oc_over_uc
from pinrec_core.evaluation.result import EQUAL_DISTINCT_ITEMS

LONG_HISTORIES = ("yelp", "ml100k")  # the sessions of trivago are much shorter than 16 offsets
LEAVE_ONE_OUT_RUN = "uc"  # it predicts the next item, which is what leave-one-out asks for
GSASREC = "gSASRec, its repository (arXiv 2308.07192)"
TIGER = "TIGER (arXiv 2305.05065)"


def claims_of(study: str, outcomes: Sequence[str]) -> list[AnyClaim]:
    """All claims about a study, measured or not."""
    return [claim for make in GROUPS.values() for claim in make(study, outcomes)]


def pairs_of(study: str, outcomes: Sequence[str]) -> list[tuple[Measure, Measure]]:
    """The comparisons that the claims about a study need."""
    compared = [claim for claim in claims_of(study, outcomes) if isinstance(claim, Claim)]
    return [(c.of, c.against) for c in compared if isinstance(c.against, Measure)]


def uc_over_pinnerformer(study: str, outcomes: Sequence[str]) -> Iterator[Claim]:
    """UC as it is served, and with all embeddings made ahead of the request, as PinnerFormer's one always is."""
    if study not in ("yelp", "globo"):
        return
    for evaluation, claim in (
        ("held_out", "UC over PinnerFormer"),
        ("held_out_offline", "UC over PinnerFormer, both ahead of the request"),
    ):
        for metric, name, goal in (
            ("unordered recall@10", "hit", Goal(compare=">=", bound=1.32)),
            ("unordered recall at equal retrieved items", "hit_equal_items", None),
            ("unordered recall at equal distinct items", EQUAL_DISTINCT_ITEMS, None),
            ("served recall@100", "served_hit", None),
        ):
            of = "hit" if name == EQUAL_DISTINCT_ITEMS else name
            yield Claim(
                group="uc-over-pinnerformer", claim=claim, study=study, metric=metric, goal=goal,
                of=Measure(run="uc", evaluation=evaluation, name=of), against=_held_out("pinnerformer", name),
                overview=name in ("hit", "hit_equal_items"),
            )  # fmt: skip


def mt_oc_over_uc(study: str, outcomes: Sequence[str]) -> Iterator[Claim]:
    if study not in OUTCOME_LOGS:
        return
    yield Claim(
        group="mt-oc-over-uc", claim="{MT,OC} over UC at equal embeddings", study=study, metric="unordered recall@10",
        of=_held_out("mt_oc", "hit"), against=_held_out("uc", "hit"), goal=Goal(compare=">=", bound=1.11),
        overview=True,
    )  # fmt: skip
    for run, other, claim, goal in (
        ("mt_oc", "oc", "{MT,OC} over OC at equal embeddings", Goal(compare=">=", bound=1.05)),
        ("mt", "uc", "MT over UC at equal embeddings", None),
    ):
        yield Claim(
            group="mt-oc-over-uc", claim=claim, study=study, metric="unordered recall@10", of=_held_out(run, "hit"),
            against=_held_out(other, "hit"), goal=goal, needs_times=True, overview=goal is not None,
        )  # fmt: skip
    if study in LONG_HISTORIES:
        yield Claim(
            group="mt-oc-over-uc", claim="{MT,OC} at 16 offsets per step over OC, equal embeddings", study=study,
            metric="diversity", of=Measure(run="mt_oc_16", evaluation="steps-16", name="diversity"),
            against=Measure(run="oc", evaluation="steps-1", name="diversity"), goal=Goal(compare=">=", bound=1.21),
            overview=True,
        )  # fmt: skip


def embeddings_per_step(study: str, outcomes: Sequence[str]) -> Iterator[Claim]:
    if study not in LONG_HISTORIES:
        return
    for metric, name, goal in (
        ("median generation latency, ms", "latency.median_ms", Goal(compare="<=", bound=0.1)),
        ("unordered recall@10", "hit", Goal(compare=">=", bound=1.0)),
    ):
        of, against = (Measure(run="mt_oc_16", evaluation=f"steps-{width}", name=name) for width in (16, 1))
        yield Claim(
            group="embeddings-per-step", claim="{MT,OC}: 16 embeddings per step and outcome against 1, equal total",
            study=study, metric=metric, goal=goal, of=of, against=against, overview=True,
        )  # fmt: skip


def movielens_1m(study: str, outcomes: Sequence[str]) -> Iterator[Claim]:
    if study == "ml1m":
        published = {"HR@10": 0.3003, "NDCG@10": 0.1726}
        stretch = {"HR@10": 0.33, "NDCG@10": 0.19}
        title = "MovieLens-1M, leave one out"
        yield from _leave_one_out(study, title, GSASREC, published, published)
        yield from _leave_one_out(study, f"{title}: stretch", GSASREC, published, stretch)
        yield from _over_co_occurrence(study, title)


def amazon(study: str, outcomes: Sequence[str]) -> Iterator[Claim]:
    published = {
        "beauty": {"HR@10": 0.0648, "NDCG@10": 0.0384},
        "toys": {"HR@10": 0.0712, "NDCG@10": 0.0432},
    }
    if study in published:
        title = f"Amazon {study.capitalize()}, leave one out"
        yield from _leave_one_out(study, title, TIGER, published[study], published[study])
        yield from _over_co_occurrence(study, title)


def served(study: str, outcomes: Sequence[str]) -> Iterator[Claim]:
    if study not in OUTCOME_LOGS:
        return
    yield Claim(
        group="served", claim="{MT,OC} served, against the 100 items of UC", study=study, metric="served recall@100",
        of=_held_out("mt_oc", "served_hit"), against=_held_out("uc", "served_hit"),
        goal=Goal(compare=">=", bound=1.0), overview=True,
    )  # fmt: skip
    for run, title in (("pinnerformer", "PinnerFormer"), ("sasrec", "SASRec")):
        claim = f"{{MT,OC}} served, against the top 100 of {title}"
        yield Claim(
            group="served", claim=claim, study=study, metric="served recall@100",
            of=_held_out("mt_oc", "served_hit"), against=_held_out(run, "served_hit"),
            goal=Goal(compare=">=", bound=1.05), overview=True,
        )  # fmt: skip
        if study in LONG_HISTORIES:  # elsewhere {MT,OC} takes one step, which does not depend on the request
            yield Claim(
                group="served", claim=f"{claim}, both ahead of the request", study=study, metric="served recall@100",
                of=Measure(run="mt_oc", evaluation="held_out_offline", name="served_hit"),
                against=_held_out(run, "served_hit"), goal=None,
            )  # fmt: skip


def cold(study: str, outcomes: Sequence[str]) -> Iterator[Claim]:
    run = {"yelp": "mt_oc", "trivago": "mt_oc", "ml100k": "mt_oc", "globo": "uc"}.get(study)
    if run is None:
        return
    for metric, name in (
        ("unordered recall at equal retrieved items", "hit_equal_items"),
        ("served recall@100", "served_hit"),
    ):
        yield Claim(
            group="cold", claim="a user without history, over popularity by surface", study=study, metric=metric,
            of=Measure(run=run, evaluation="cold", name=name), goal=Goal(compare=">", bound=1.0),
            against=Measure(run="popularity-by-surface", evaluation="cold", name=name), overview=name == "served_hit",
        )  # fmt: skip


def precision(study: str, outcomes: Sequence[str]) -> Iterator[Claim]:
    if study not in ("yelp", "trivago", "ml100k"):
        return
    for arithmetic in ("fp32", "bf16", "fp16"):
        yield Claim(
            group="precision", claim=f"INT8 features and {arithmetic.upper()} arithmetic against FP32", study=study,
            metric="unordered recall@10", goal=Goal(compare="within", bound=0.005),
            of=Measure(run="mt_oc", evaluation="precision", name=f"hit_int8_{arithmetic}"),
            against=Measure(run="mt_oc", evaluation="precision", name="hit_fp32_fp32"), overview=arithmetic != "fp32",
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """A row of the overview that the project's README shows too, said in plain words."""

    claim: str
    metric: str
    words: str


HEADLINES = (
    Headline(
        claim="{MT,OC} served, against the top 100 of PinnerFormer",
        metric="served recall@100",
        words="Share of a user's next items among 100 recommended, against one embedding per user (PinnerFormer)",
    ),
    Headline(
        claim="OC over UC, conditioned on the target's outcome",
        metric="unordered recall@10",
        words="Next items found when the budget asks for their outcome, against a model that knows no outcomes",
    ),
    Headline(
        claim="{MT,OC}: 16 embeddings per step and outcome against 1, equal total",
        metric="median generation latency, ms",
        words="Time to generate a given number of embeddings, 16 per step against one per step",
    ),
    Headline(
        claim="MovieLens-1M, leave one out",
        metric="HR@10",
        words="Hit rate in the top ten on MovieLens-1M; the goal is the published figure of gSASRec",
    ),
    Headline(
        claim="{MT,OC} at 16 offsets per step over OC, equal embeddings",
        metric="diversity",
        words="Diversity of the items found, 16 embeddings per step against one per step",
    ),
)
"""Each stands for a row of the overview with all its logs, so that no log can be left out here."""

GROUPS: dict[str, Callable[[str, Sequence[str]], Iterator[AnyClaim]]] = {
    "uc-over-pinnerformer": uc_over_pinnerformer,
    "oc-over-uc": oc_over_uc,
    "steering": budget_delivered,
    "mt-oc-over-uc": mt_oc_over_uc,
    "embeddings-per-step": embeddings_per_step,
    "movielens-1m": movielens_1m,
    "amazon": amazon,
    "served": served,
    "cold": cold,
    "precision": precision,
}
TITLES = {
    "uc-over-pinnerformer": "Generative over one embedding: UC against PinnerFormer",
    "oc-over-uc": "Outcome conditioning: OC against UC",
    "steering": "Steering: what a budget delivers",
    "mt-oc-over-uc": "Multi-token and outcome conditioning: {MT,OC} against UC and OC",
    "embeddings-per-step": "16 embeddings per step against 1",
    "movielens-1m": "MovieLens-1M against published figures",
    "amazon": "Amazon Beauty and Toys against published figures",
    "served": "What a user is served: {MT,OC} against UC, PinnerFormer and SASRec",
    "cold": "Users without a history",
    "precision": "Number formats of serving",
}


def _held_out(run: str, name: str) -> Measure:
    return Measure(run=run, evaluation="held_out", name=name)


def _leave_one_out(
    study: str, claim: str, source: str, published: dict[str, float], goals: dict[str, float]
) -> Iterator[Claim]:
    group = "movielens-1m" if study == "ml1m" else "amazon"
    for metric, name in (("HR@10", "hit"), ("NDCG@10", "ndcg")):
        yield Claim(
            group=group, claim=claim, study=study, metric=metric,
            of=Measure(run=LEAVE_ONE_OUT_RUN, evaluation="leave_one_out", name=name),
            against=Published(source=source, value=published[metric]),
            goal=Goal(compare=">=", bound=goals[metric], of="value"), overview=goals is published,
        )  # fmt: skip


def _over_co_occurrence(study: str, claim: str) -> Iterator[Claim]:
    """What counting reaches on the same split, beside the published figure: it shows how demanding that one is."""
    for metric, name in (("HR@10", "hit"), ("NDCG@10", "ndcg")):
        of, against = (
            Measure(run=run, evaluation="leave_one_out", name=name) for run in (LEAVE_ONE_OUT_RUN, "co-occurrence")
        )
        yield Claim(
            group="movielens-1m" if study == "ml1m" else "amazon", claim=f"{claim}, beside counting", study=study,
            metric=metric, of=of, against=against, goal=None, overview=True,
        )  # fmt: skip
