"""``pinrec release RUN`` turns a training run into a published release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pinrec_cli.generation_options import Embeddings, Offsets, options_without_use, parse_offsets


def make(
    run: Annotated[Path, typer.Argument(help="A run folder made by `pinrec train`.", show_default=False)],
    releases: Annotated[Path, typer.Option(help="Folder that holds the releases.")] = Path("releases"),
    dataset: Annotated[
        Path | None, typer.Option(help="Prepared dataset, if it has moved since training.", show_default=False)
    ] = None,
    make_current: Annotated[
        bool, typer.Option(help="Point releases/current at it, so that `pinrec serve` takes it.")
    ] = True,
    accept_recall: Annotated[
        bool, typer.Option("--accept-recall", help="Publish an index whose recall is below the target, too.")
    ] = False,
    embeddings: Embeddings = None,
    offsets: Offsets = None,
    evaluate: Annotated[bool, typer.Option(help="Evaluate first and record the figures in the release.")] = True,
    targets: Annotated[
        int,
        typer.Option(
            help="Z: target items per held-out user. Calibration takes at most 8, and fewer if users have fewer."
        ),
    ] = 8,
    id_rows: Annotated[
        str,
        typer.Option(
            help="Number format of the ID tables, fp16 or int8. fp16 costs no quality, because ID embeddings reach the "
            "model in FP16 anyway; int8 takes about half of its memory, and what it costs is part of the figures shown."
        ),
    ] = "fp16",
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the generator for this processor, which takes some minutes and a C++ compiler. Served on "
            "such a processor with the same torch, it takes half of the time or less; elsewhere it runs uncompiled.",
        ),
    ] = False,
    products: Annotated[
        str | None,
        typer.Option(
            help="With --compile: number format of the decoder's products, fp32, bf16 or int8. With int8 the plain "
            "model is judged as well, and a release whose served recall is lower by more than .5% is refused.",
            show_default="bf16 where the processor has it",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device of the model: cpu, cuda, cuda:1 …")] = "cpu",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Freeze a run into a release: weights, ID embedder, index, catalogue, vocabularies, checksums.

    The release is written beside its place and then renamed, so that a failure leaves nothing behind. It is calibrated
    and judged on held-out users or, if training held out none (--set training.evaluation_share=0), on the last items
    of all users (--set training.held_out_last=2). If there are neither, a warning says so. The manifest records on
    whom a release was calibrated.

    An index that finds too little of what exact search finds is refused; the manifest records the recall it reaches.

    pinrec release runs/ml100k --releases releases

    What is served is what was evaluated with the same options:
    pinrec release runs/ml100k --embeddings 12 --offsets 1,3
    """
    import datetime
    import tempfile

    from pinrec_cli.console import print_json, stderr, stdout, steps_progress
    from pinrec_cli.evaluation_progress import users_progress
    from pinrec_cli.evaluation_tables import metrics_table
    from pinrec_cli.release.next_steps import print_next
    from pinrec_core.errors import ConfigError, DataError, require
    from pinrec_core.evaluation.judging import NoCasesError, judge
    from pinrec_core.evaluation.opening import calibration_warning, held_out_of, open_run, task_for_release
    from pinrec_core.evaluation.subjects import ModelSubject
    from pinrec_core.generation.program import Products, load_package
    from pinrec_core.release.compiling import add_program, check_served_recall
    from pinrec_core.release.manifest import MANIFEST_FILE
    from pinrec_core.release.publishing import check_recall, publish
    from pinrec_core.representations.id_tables import RowFormat
    from pinrec_core.training.run import Run

    require(id_rows in set(RowFormat), "--id-rows", id_rows, f"one of {', '.join(RowFormat)}", error=ConfigError)
    if products is not None:
        require(products in set(Products), "--products", products, f"one of {', '.join(Products)}", error=ConfigError)
        require(compile_, "--products", products, "--compile with it", error=ConfigError)
    require(not compile_ or device == "cpu", "--device", device, "cpu with --compile", error=ConfigError)
    chosen = Products(products) if products else None
    if (run / MANIFEST_FILE).is_file():
        raise DataError(f"{run}: a release, expected a run, the folder that `pinrec train` wrote")
    if not run.exists():
        raise DataError(f"{run}: expected a run folder made by `pinrec train`, or a command of `pinrec release --help`")
    training_run = Run.load(run)
    variant = training_run.model.variant
    wanted = parse_offsets(offsets)
    if unused := options_without_use(variant, embeddings=embeddings, offsets=wanted):
        raise ConfigError(f"{', '.join(unused)}: expected none for {run}, a {variant} model has no use for it")
    task = task_for_release(
        held_out_of(training_run), dataset or training_run.dataset, targets=targets, max_users=2000
    )  # fmt: skip
    with steps_progress("preparing") as report:
        subject = open_run(
            str(run), task, embeddings=embeddings, offsets=wanted, device=device, id_rows=RowFormat(id_rows),
            report=report,
        )  # fmt: skip
    if not accept_recall:
        check_recall(subject.indexed.calibration)  # before the evaluation, which takes longest
    if warning := calibration_warning(subject.indexed.calibration.calibrated_on):
        stderr.print(f"warning: {warning}", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="pinrec-release-") as scratch:
        subjects, program = [subject], None
        if compile_:
            with steps_progress("compiling") as report:
                report("the generator")
                program = Path(scratch), add_program(subject.indexed, Path(scratch), chosen)
            run_compiled = load_package(Path(scratch) / program[1].file)
            compiled = ModelSubject(f"{subject.name}, compiled", subject.indexed.with_program(run_compiled))
            subjects = [compiled] if chosen is not Products.INT8 else [subject, compiled]
        results = []
        if evaluate:
            try:
                with users_progress() as begin:
                    for judged in subjects:
                        progress = begin(f"evaluating users, {judged.name}", task.max_users)
                        results.append(judge(judged, task, report=progress))
            except NoCasesError as error:
                stderr.print(f"warning: the release holds no figures: {error}", soft_wrap=True)
        if len(results) == 2 and not accept_recall:
            check_served_recall(compiled=results[1].metrics, plain=results[0].metrics)
        metrics = {"protocol": results[-1].protocol} | results[-1].metrics if results else {}
        with steps_progress("publishing") as report:
            published = publish(
                subject.indexed,
                dataset=task.dataset,
                releases=releases,
                training=held_out_of(training_run),
                metrics=metrics,
                now=datetime.datetime.now(datetime.UTC),
                make_current=make_current,
                accept_recall=accept_recall,
                program=program,
                report=report,
            )
    if json_:
        print_json({"release": published.manifest.release_id, "folder": str(published.folder)})
        return
    if results:
        stdout.print(metrics_table(results, task))
    stdout.print(f"release {published.manifest.release_id} in {published.folder}", soft_wrap=True)
    print_next(published.manifest.release_id, releases=releases, dataset=task.dataset, current=make_current)
