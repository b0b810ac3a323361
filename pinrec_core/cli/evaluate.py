"""``pinrec evaluate``: models and baselines against the same users, compared with confidence intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pinrec_core.cli.generation_options import Embeddings, Offsets, parse_offsets


def evaluate(
    subject: Annotated[
        list[str],
        typer.Argument(
            help="Runs, releases, or baselines: popularity, popularity-by-surface, co-occurrence. The first is "
            "compared with each of the others.",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        Path | None, typer.Option(help="Prepared dataset; a run knows its own, a release needs it.", show_default=False)
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="held-out: three quarters of the users kept out of training, their last items; "
            "held-out-validation: the fourth, to choose settings on. held-out-offline: as held-out, but embeddings are "
            "made ahead of the request, with the surface and time of the last item. cold: the users of held-out, their "
            "first items, no history. leave-one-out (or -validation): every user's last (or second last) item, full "
            "ranking, seen items removed."
        ),
    ] = "held-out",
    targets: Annotated[int, typer.Option(help="Z: items per user to be recalled.")] = 8,
    k: Annotated[int, typer.Option(help="Items per generated embedding; the cut-off of leave-one-out.")] = 10,
    embeddings: Embeddings = None,
    offsets: Offsets = None,
    num_items: Annotated[int, typer.Option(help="N: items of the served recall.")] = 100,
    exclude_seen: Annotated[bool, typer.Option(help="Keep the user's history out of the served items.")] = False,
    max_users: Annotated[
        int | None,
        typer.Option(
            help="At most this many users, sampled by hash. By default 2,000; leave-one-out judges all.",
            show_default=False,
        ),
    ] = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Controllability: all budget on one outcome, first subject over second.")
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
        bool, typer.Option("--precision", help="INT8 features and FP16/BF16 against FP32, of the first subject.")
    ] = False,
    device: Annotated[str, typer.Option(help="Torch device of the models: cpu, cuda, cuda:1 …")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Save metrics.json and users.parquet of every subject here.", show_default=False),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Judge models on users they were not trained on, beside baselines.

    Unordered recall@k counts a target that any of a user's E embeddings ranks within its top k; "at equal items" lets
    a subject with fewer embeddings look deeper, at k·E items in all. Served recall@N is the share of targets among the
    N items that the service would return. Diversity: distinct items over all places in the users' lists. The index is
    the whole catalogue. Intervals are 95%, by resampling users.

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
    from pinrec_core.cli import evaluation_tables as tables
    from pinrec_core.cli.console import print_json, progress, stderr, stdout
    from pinrec_core.cli.evaluation_studies import Studies, run_studies
    from pinrec_core.errors import ConfigError, require
    from pinrec_core.evaluation.setting import Protocol, Setting, judge, open_subject

    protocols = [p.value for p in Protocol]
    require(protocol in protocols, "protocol", protocol, f"one of {protocols}", error=ConfigError)
    require(len(set(subject)) == len(subject), "subjects", subject, "each of them once", error=ConfigError)
    chosen = Protocol(protocol)
    studies = Studies(
        matrix=matrix, sweep_steps=sweep_steps, sweep_budget=sweep_budget, precision=precision, k=k,
        num_items=num_items, exclude_seen=exclude_seen,
    )  # fmt: skip
    setting = Setting.for_subjects(
        subject, dataset=dataset, protocol=chosen, targets=targets,
        max_users=max_users if max_users is not None or chosen.left_out else 2000,
    )  # fmt: skip
    opened = []
    wanted = parse_offsets(offsets)
    for name in subject:
        with stderr.status(f"opening {name}"):
            opened.append(open_subject(name, setting, embeddings=embeddings, offsets=wanted, device=device))
    studies.check(opened)
    equal_embeddings = max(one.embeddings for one in opened)
    numbers = {one.name: one.embeddings for one in opened if one.embeddings > 1}
    if len(set(numbers.values())) > 1:
        stderr.print(f"note: {numbers} embeddings per user: recall@k favours the larger; --embeddings makes them equal")
    results = []
    with progress(count=True) as bar:
        for one in opened:
            task = bar.add_task(one.name, total=setting.max_users)

            def report(done: int, task: object = task) -> None:
                bar.advance(task, done)  # type: ignore[arg-type]

            results.append(
                judge(
                    one, setting, k=k, equal_embeddings=equal_embeddings, num_items=num_items,
                    exclude_seen=exclude_seen, report=report,
                )
            )  # fmt: skip
            bar.update(task, total=len(results[-1].user_id))
    if out is not None:
        for name, result in zip(tables.short_names(subject).values(), results, strict=True):
            result.save(out / name)
    comparisons = tables.comparisons(results)
    if not json_:
        for table in (tables.metrics_table(results, setting), tables.comparison_table(comparisons)):
            if table.row_count:
                stdout.print(table)
    found = run_studies(studies, opened, setting)
    if json_:
        print_json(
            {
                "dataset": setting.manifest.name,
                "protocol": protocol,
                "subjects": {result.subject: result.metrics for result in results},
                "comparisons": [comparison.to_dict() for comparison in comparisons],
                **found.to_dict(),
            }
        )
        return
    for table in found.tables():
        stdout.print(table)
