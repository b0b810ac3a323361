"""``pinrec evaluate`` judges models and baselines on the same users and compares them, with confidence intervals."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pinrec_cli.generation_options import Embeddings, Offsets, options_without_use, parse_offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pinrec_core.evaluation.protocol import Protocol
    from pinrec_core.evaluation.subjects import Subject


def evaluate(
    context: typer.Context,
    subject: Annotated[
        list[str],
        typer.Argument(
            help="Runs, releases, or baselines: popularity, popularity-by-surface, co-occurrence. The first is "
            "compared with each of the others.",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        Path | None,
        typer.Option(help="Prepared dataset. A run knows its own; a release needs this option.", show_default=False),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="Whose items are to be found. held-out: the last items of three quarters of the users that training "
            "held out; held-out-validation: those of the other quarter, to choose settings on. held-out-offline: as "
            "held-out, with embeddings made ahead of the request, at the surface and time of the last item. cold: the "
            "first items of the users of held-out, without a history. leave-one-out (or -validation): every user's "
            "last (or second last) item in a ranking of the whole catalogue without seen items."
        ),
    ] = "held-out",
    targets: Annotated[int, typer.Option(help="Z: target items per user, which are to be found.")] = 8,
    k: Annotated[
        int, typer.Option(help="Items that are counted per generated embedding; the cut-off of leave-one-out.")
    ] = 10,
    embeddings: Embeddings = None,
    offsets: Offsets = None,
    num_items: Annotated[int, typer.Option(help="N: items that a user is served, for the served recall.")] = 100,
    exclude_seen: Annotated[bool, typer.Option(help="Keep the user's history out of the served items.")] = False,
    max_users: Annotated[
        int | None,
        typer.Option(
            help="At most this many users, sampled by hash. By default 2,000; leave-one-out judges all.",
            show_default=False,
        ),
    ] = None,
    matrix: Annotated[
        bool,
        typer.Option(
            "--matrix",
            help="Controllability: recall of the first subject over the second, with all budget on one outcome.",
        ),
    ] = False,
    sweep_steps: Annotated[
        int | None,
        typer.Option(
            help="Recall, diversity and latency for 1, 2, 4, 8 and 16 offsets per step at this total of embeddings.",
            show_default=False,
        ),
    ] = None,
    sweep_budget: Annotated[
        str | None,
        typer.Option(help="Move the budget from one outcome to another, e.g. like:dislike.", show_default=False),
    ] = None,
    precision: Annotated[
        bool,
        typer.Option(
            "--precision", help="Recall of the first subject with INT8 features and FP16 or BF16, against FP32."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="Torch device of the models: cpu, cuda, cuda:1 …")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to save the metrics.json and users.parquet of every subject in.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the evaluation at --out.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Judge models on users they were not trained on, beside baselines.

    Unordered recall@k counts a target that any of a user's E embeddings ranks within its top k; "at equal items" lets
    a subject with fewer embeddings look deeper, at k·E items in all. Served recall@N is the share of targets among the
    N items that the service would return. Diversity is the number of distinct items over the number of places in the
    users' lists. The index holds the whole catalogue. Intervals are 95%, by resampling users.

    pinrec evaluate runs/ml100k popularity co-occurrence

    Variants at an equal number of embeddings, here of three outcomes; UC takes as many steps, so train it with
    --set model.max_steps=12:
    pinrec evaluate runs/mt_oc runs/uc runs/pinnerformer --embeddings 12 --offsets 1,2

    What a budget does, against an unconditioned model:
    pinrec evaluate runs/oc runs/uc --embeddings 12 --matrix --sweep-budget like:dislike

    The classic benchmark, for runs trained with --set training.held_out_last=2:
    pinrec evaluate runs/ml1m co-occurrence --protocol leave-one-out

    Users without a history:
    pinrec evaluate runs/globo popularity-by-surface --protocol cold
    """
    from pinrec_cli import evaluation_tables as tables
    from pinrec_cli.console import print_json, stderr, stdout
    from pinrec_cli.evaluation_progress import users_progress
    from pinrec_cli.study_tables import study_tables
    from pinrec_core.errors import ConfigError, require
    from pinrec_core.evaluation.judging import judge
    from pinrec_core.evaluation.opening import BASELINES, open_subject, task_for_subjects
    from pinrec_core.evaluation.protocol import Protocol
    from pinrec_core.evaluation.result import is_results
    from pinrec_core.evaluation.studies.selection import Studies, run_studies
    from pinrec_core.files.output_folder import output_folder

    protocols = [p.value for p in Protocol]
    require(protocol in protocols, "protocol", protocol, f"one of {protocols}", error=ConfigError)
    different = {name if name in BASELINES else Path(name).resolve() for name in subject}
    require(len(different) == len(subject), "subjects", subject, "each of them once", error=ConfigError)
    chosen = Protocol(protocol)
    studies = Studies(
        matrix=matrix, sweep_steps=sweep_steps, sweep_budget=sweep_budget, precision=precision, k=k,
        num_items=num_items, exclude_seen=exclude_seen,
    )  # fmt: skip
    task = task_for_subjects(
        subject, dataset=dataset, protocol=chosen, targets=targets,
        max_users=max_users if max_users is not None or chosen.left_out else 2000,
    )  # fmt: skip
    wanted = parse_offsets(offsets)
    saved: AbstractContextManager[Path | None] = nullcontext()
    if out is not None:
        saved = output_folder(out, overwrite=overwrite, is_replaceable=is_results, kind="folder of evaluations")
    with saved as folder:
        opened = []
        for name in subject:
            with stderr.status(f"opening {name}"):
                opened.append(open_subject(name, task, embeddings=embeddings, offsets=wanted, device=device))
        studies.check(opened)
        if chosen.left_out:
            _note_ignored(context, chosen, generates=studies.any)
        if studies.any or not chosen.left_out:
            _note_what_is_generated(opened, embeddings, wanted)
        equal_embeddings = max(one.embeddings for one in opened)
        results = []
        with users_progress() as begin:
            for one in opened:
                report = begin(one.name, task.max_users)
                results.append(
                    judge(
                        one, task, k=k, equal_embeddings=equal_embeddings, num_items=num_items,
                        exclude_seen=exclude_seen, report=report,
                    )
                )  # fmt: skip
        comparisons = tables.comparisons(results)
        if not json_:
            for table in (tables.metrics_table(results, task), tables.comparison_table(comparisons)):
                if table.row_count:
                    stdout.print(table)
        if folder is not None:
            for name, result in zip(tables.short_names(subject).values(), results, strict=True):
                result.save(folder / name)
    with users_progress() as begin:
        found = run_studies(studies, opened, task, begin)
    if json_:
        print_json(
            {
                "dataset": task.manifest.name,
                "protocol": protocol,
                "subjects": {result.subject: result.metrics for result in results},
                "comparisons": [comparison.to_dict() for comparison in comparisons],
                **found.to_dict(),
            }
        )
        return
    for table in study_tables(found):
        stdout.print(table)


def _note_ignored(context: typer.Context, protocol: Protocol, *, generates: bool) -> None:
    """Names the given options that have no effect when the whole catalogue is ranked; studies have a use for some."""
    from pinrec_cli.console import stderr

    names = ("targets",) if generates else ("targets", "num_items", "exclude_seen", "embeddings", "offsets")
    known = [option for option in context.command.params if option.name in names]
    given = [option.opts[0] for option in known if context.params[option.name] != option.default]
    if given:
        ignored = ", ".join(given)
        stderr.print(
            f"note: --protocol {protocol} ranks one target by one embedding; {ignored}: ignored", soft_wrap=True
        )


def _note_what_is_generated(subjects: Sequence[Subject], embeddings: int | None, offsets: Sequence[int] | None) -> None:
    """Says what a reader should know of the models before looking at their figures."""
    from pinrec_cli.console import stderr
    from pinrec_core.evaluation.opening import calibration_warning
    from pinrec_core.evaluation.subjects import ModelSubject

    for one in subjects:
        if not isinstance(one, ModelSubject):
            continue
        variant = one.indexed.model.config.variant
        if unused := options_without_use(variant, embeddings=embeddings, offsets=offsets):
            stderr.print(f"note: {one.name}: a {variant} model has no use for {', '.join(unused)}", soft_wrap=True)
        if warning := calibration_warning(one.indexed.calibration.calibrated_on):
            stderr.print(f"warning: {one.name}: {warning}", soft_wrap=True)
    numbers = {one.name: one.embeddings for one in subjects if one.embeddings > 1}
    if len(set(numbers.values())) > 1:
        stderr.print(f"note: {numbers} embeddings per user: recall@k favours the larger; --embeddings makes them equal")
