"""``pinrec evaluate``: a run or a release against held-out users and a popularity baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pinrec_core.evaluation import EvaluationCase, EvaluationReport
    from pinrec_core.indexed_model import IndexedModel
    from pinrec_core.training import Run


def evaluate(
    subject: Annotated[Path, typer.Argument(help="A run folder or a release folder.", show_default=False)],
    dataset: Annotated[
        Path | None, typer.Option(help="Prepared dataset; a run knows its own, a release needs it.", show_default=False)
    ] = None,
    targets: Annotated[int, typer.Option(help="Z: items per user to be recalled, the user's last.")] = 8,
    k: Annotated[int, typer.Option(help="Items per generated embedding.")] = 10,
    max_users: Annotated[int, typer.Option(help="Held-out users to judge at most.")] = 2000,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Unordered recall@k, diversity and what 100 served items recall, beside popularity.

    Users are disjoint from training. The index is the whole catalogue.

    Example: pinrec evaluate runs/ml100k
    """
    from pinrec_core.cli.console import print_json, stdout

    serving, cases, popularity = load_subject(subject, dataset, targets, max_users)
    report = run_evaluation(serving, cases, popularity, k)
    if json_:
        print_json(report.to_dict())
    else:
        stdout.print(report_table(report))


def load_subject(
    subject: Path, dataset: Path | None, targets: int, max_users: int
) -> tuple[IndexedModel, list[EvaluationCase], Any]:
    """What to judge, on whom, and the popularity counts. A run is indexed and calibrated on the way."""
    from pinrec_core.cli.console import stderr
    from pinrec_core.config import TrainingConfig
    from pinrec_core.dataset import DatasetManifest
    from pinrec_core.errors import ConfigError, DataError
    from pinrec_core.evaluation import evaluation_cases
    from pinrec_core.indexed_model import IndexedModel
    from pinrec_core.release import EVALUATION_SHARE_KEY, MANIFEST_FILE, Release
    from pinrec_core.training import Run

    if not (subject / MANIFEST_FILE).is_file():
        return index_run(Run.load(subject), dataset, targets, max_users)
    if dataset is None:
        raise ConfigError("--dataset: expected the prepared dataset to judge a release on")
    release, given = Release.open(subject), DatasetManifest.load(dataset)
    for name in ("outcomes", "surfaces", "item_id_kind", "feature_space"):
        got, expected = getattr(given, name), getattr(release.manifest.dataset, name)
        if got != expected:
            raise DataError(f"{dataset}: {name}={got!r}, expected {expected!r}, which the release was made with")
    # The share that the run held out: a larger one would count users it was trained on.
    share = release.manifest.metrics.get(EVALUATION_SHARE_KEY, TrainingConfig().evaluation_share)
    with stderr.status("reading held-out users"):
        cases, popularity = evaluation_cases(
            dataset, release.catalogue, share=share, targets=targets, max_users=max_users
        )
    return IndexedModel.from_release(release), cases, popularity


def index_run(
    run: Run, dataset: Path | None, targets: int, max_users: int
) -> tuple[IndexedModel, list[EvaluationCase], Any]:
    """A run indexed and calibrated, its held-out users, and the popularity counts."""
    from pinrec_core.catalogue import ItemCatalogue
    from pinrec_core.cli.console import stderr
    from pinrec_core.evaluation import evaluation_cases
    from pinrec_core.indexed_model import IndexedModel, default_compression_target, default_generation

    folder = dataset or run.dataset
    with stderr.status("reading held-out users"):
        cases, popularity = evaluation_cases(
            folder, ItemCatalogue.open(folder), share=run.training.evaluation_share, targets=targets,
            max_users=max_users,
        )  # fmt: skip
    with stderr.status("indexing and calibrating"):
        serving = IndexedModel.from_run(
            run, folder, cases,
            generation=default_generation(run.model), compression_target=default_compression_target(run.model),
        )  # fmt: skip
    return serving, cases, popularity


def run_evaluation(serving: IndexedModel, cases: list[EvaluationCase], popularity: Any, k: int) -> EvaluationReport:
    """Evaluate with a progress bar."""
    from pinrec_core.cli.console import progress
    from pinrec_core.evaluation import evaluate as judge

    with progress(count=True) as bar:
        task = bar.add_task("evaluating users", total=len(cases))
        return judge(
            serving.model, serving.embed_ids, serving.index, serving.generation, serving.dataset, cases, popularity,
            k=k, report=lambda done: bar.advance(task, done),
        )  # fmt: skip


def report_table(report: EvaluationReport) -> Any:
    """The report as a rich table: the model beside popularity."""
    from rich.table import Table

    table = Table(
        title=f"{report.users:,} held-out users · {report.targets_per_user} targets each · "
        f"catalogue of {report.catalogue:,} · {report.embeddings} embeddings"
    )
    table.add_column("metric")
    for name in ("model", "popularity", "ratio"):
        table.add_column(name, justify="right")

    def row(name: str, value: float, baseline: float | None = None) -> None:
        ratio = f"{value / baseline:.2f}×" if baseline else ""
        table.add_row(name, f"{value:.4f}", "" if baseline is None else f"{baseline:.4f}", ratio)

    row(f"unordered recall@{report.k}", report.unordered_recall, report.popularity_recall)
    row(
        f"… against {report.distinct_items:.0f} popular items",
        report.unordered_recall,
        report.popularity_recall_equal_items,
    )
    row("served recall@100", report.served_recall_100, report.popularity_recall_100)
    for outcome, recall in report.recall_by_outcome.items():
        row(f"unordered recall@{report.k}, {outcome}", recall)
    row("diversity", report.diversity)
    row("compression ratio", report.compression_ratio)
    return table
