"""The batch job (PinRec, serving): one PySpark job from a prepared dataset to per-user, time-ordered sequences.

It keeps positive engagements and queries before the end time of the batch and joins the INT8 features. A full run reads
all events. An incremental run reads the events that the previous run did not use and merges them into its sequences
(``sequence_merge``); the result is the same. Training and serving both read it, so they agree. The job knows nothing of
models or stores. Run it as ``python -m signal_service.batch_job DATASET`` or with ``spark-submit``.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer
from pyspark.sql import Observation, SparkSession
from pyspark.sql import functions as F

from pinrec_core.dataset.batch_info import BatchInfo, is_batch
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError, PinRecError, require
from pinrec_core.files.output_folder import output_folder
from pinrec_core.ids import IdKind
from signal_service.batch_report import BatchReport
from signal_service.batch_run import (
    NOTHING_READ,
    BatchRun,
    EventFile,
    FeatureTable,
    RebuildNeeded,
    digest_features,
    reason_to_rebuild,
)
from signal_service.batch_steps import (
    Batch,
    Progress,
    event_files,
    joined_bytes,
    listed,
    observed,
    part_bounds,
    read_events,
    used_events,
    write_histories,
)
from signal_service.sequence_merge import MergeRules, merge_sequences
from signal_service.spark_session import spark_session

SECONDS_PER_DAY = 86_400
QUICK_BYTES = 512 << 20
"""Up to this size of the join, Java's quick compiler pays: the job took .6 of the time at 30 MiB, .9 at 490
(docs/log.md)."""


def run_batch_job(
    dataset: Path,
    *,
    master: str = "local[*]",
    end_time: int | None = None,
    lookback_days: int | None = None,
    max_interactions_per_user: int = 2048,
    driver_memory: str = "2g",
    progress: Progress | None = None,
) -> Path:
    """Write ``dataset/signals/sequences`` anew, as ``write_sequences`` does, and return its path.

    ``end_time`` defaults to just behind the manifest's ``last_timestamp``, which leaves out events that were ahead of
    the clock.
    """
    dataset = Path(dataset).resolve()
    manifest = DatasetManifest.load(dataset)
    with output_folder(
        dataset / "signals" / "sequences", overwrite=True, is_replaceable=is_batch, kind="batch of sequences"
    ) as folder:
        write_sequences(
            dataset,
            folder,
            master=master,
            end_time=manifest.last_timestamp + 1 if end_time is None else end_time,
            lookback_days=lookback_days,
            max_interactions_per_user=max_interactions_per_user,
            driver_memory=driver_memory,
            progress=progress or (lambda _: None),
        )
        manifest.save(dataset / "signals")  # so that the signals folder can be used on its own
    return dataset / "signals" / "sequences"


def write_sequences(
    dataset: Path,
    out: Path,
    *,
    master: str,
    end_time: int,
    lookback_days: int | None,
    max_interactions_per_user: int,
    driver_memory: str,
    previous: Path | None = None,
    forgotten: Mapping[bytes, int] = MappingProxyType({}),
    tables: str | None = None,
    progress: Progress,
) -> BatchReport:
    """Write the sequences of one batch to ``out``, an empty folder, and return what became of the events.

    The batch holds the events before ``end_time`` (Unix seconds), from ``lookback_days`` before it on. Each user keeps
    the newest ``max_interactions_per_user``. Equal times are in the order of the log, and users in the order of their
    store keys. ``forgotten`` has, by store key, the time up to which a user's events are left out.

    ``previous`` is the folder of earlier sequences, from which an incremental run goes on. The result has the same rows
    as that of a full run, in the same order. Where it cannot be told without all events, a full run is made instead,
    and the report says why. A tombstone in ``forgotten`` has to stay there in later runs: what an earlier run has left
    out for it is not looked for again.

    ``tables`` is where ``events`` and ``features.parquet`` are, as a URL of any file system that Spark reads; by
    default they are in ``dataset``. Raises ``DataError`` for an unusable dataset and ``ServerError`` when Spark cannot
    run.
    """
    dataset, out = Path(dataset).resolve(), Path(out).resolve()
    started = time.perf_counter()
    manifest = DatasetManifest.load(dataset)
    require(max_interactions_per_user > 0, "max_interactions_per_user", max_interactions_per_user, "at least 1",
            error=DataError)  # fmt: skip
    require(lookback_days is None or lookback_days > 0, "lookback_days", lookback_days, "at least 1", error=DataError)
    require(end_time > manifest.first_timestamp, "end_time", end_time,
            f"above {manifest.first_timestamp}, the time of the first event", error=DataError)  # fmt: skip
    require(out.is_dir() and not any(out.iterdir()), "out", str(out), "an empty folder", error=DataError)
    for part in ("events", "features.parquet") if tables is None else ():
        if not (dataset / part).exists():
            raise DataError(f"{dataset / part}: expected a part of a prepared dataset; run `pinrec prepare` first")
    batch = Batch(
        manifest=manifest,
        tables=f"file://{dataset}" if tables is None else tables.rstrip("/"),
        local=dataset if tables is None else None,
        out=out,
        start_time=None if lookback_days is None else end_time - lookback_days * SECONDS_PER_DAY,
        end_time=end_time,
        limit=max_interactions_per_user,
        forgotten={_user_id(key, manifest.user_id_kind): at for key, at in forgotten.items()},
        tell=progress,
    )
    progress("starting Spark")
    with spark_session(
        name="pinrec-batch-signals",
        master=master,
        driver_memory=driver_memory,
        shuffle_partitions=batch.num_parts(manifest.num_events),
        quick=joined_bytes(manifest, manifest.num_events) <= QUICK_BYTES,
    ) as spark:
        files = event_files(spark, batch.tables)
        reason = ""
        if previous is not None:
            try:
                return _incremental_run(spark, batch, files, Path(previous).resolve(), started)
            except RebuildNeeded as needed:
                reason = str(needed)
                progress(f"building all sequences anew: {reason}")
                _empty(out)
        return _full_run(spark, batch, files, reason, started)


def _full_run(
    spark: SparkSession, batch: Batch, files: Sequence[EventFile], reason: str, started: float
) -> BatchReport:
    batch.tell(f"building sequences from {batch.manifest.num_events:,} events")
    seen = Observation("events")
    events = read_events(spark, batch, files)
    bounds = part_bounds(events, batch.num_parts(batch.manifest.num_events), batch.manifest.num_events)
    counts = write_histories(spark, batch, [used_events(events, batch, seen, None)], bounds, batch.out, whole=True)
    last = seen.get["last_ordinal"]
    run = _run_of(batch, files, NOTHING_READ if last is None else last, _features(spark, batch))
    fates = {name: value for name, value in observed(seen).items() if name not in ("last_ordinal", "first_ordinal")}
    return _finish(
        batch,
        run,
        BatchReport(
            incremental=False,
            rebuilt_because=reason,
            start_time=batch.start_time,
            end_time=batch.end_time,
            files_read=len(files),
            previous_interactions=0,
            repeats=max(0, fates.pop("used") - counts["distinct"]),
            cut=max(0, counts["distinct"] - counts["interactions"]),
            without_content=counts["without_content"],
            users=counts["users"],
            interactions=counts["interactions"],
            seconds=round(time.perf_counter() - started, 2),
            **fates,
        ),
    )


def _incremental_run(
    spark: SparkSession, batch: Batch, files: Sequence[EventFile], previous: Path, started: float
) -> BatchReport:
    """Raises ``RebuildNeeded`` when only a full run can tell the result."""
    manifest = batch.manifest
    try:
        earlier, info = BatchRun.load(previous), BatchInfo.load(previous)
    except DataError as error:
        raise RebuildNeeded(str(error)) from error
    reason = reason_to_rebuild(
        earlier, info, manifest, start_time=batch.start_time, end_time=batch.end_time,
        max_interactions_per_user=batch.limit, files=files,
    )  # fmt: skip
    if reason:
        raise RebuildNeeded(reason)
    features = _features(spark, batch, earlier.features)
    known = set(earlier.files)
    new = [file for file in files if file not in known]
    batch.tell(f"reading {len(new)} new of {len(files)} event files")

    # The events that the earlier run did not use: those of new files, and those it was too early for.
    ahead = read_events(spark, batch, earlier.files).where(F.col("timestamp") >= earlier.end_time)
    seen, seen_ahead = Observation("new events"), Observation("events ahead")
    events = [used_events(ahead, batch, seen_ahead, None)]
    bounds: list[int | str] = []
    if new:
        fresh = read_events(spark, batch, new)
        share = sum(file.size for file in new) / sum(file.size for file in files)
        expected = math.ceil(share * manifest.num_events)
        bounds = part_bounds(fresh, batch.num_parts(expected), expected)
        events.append(used_events(fresh, batch, seen, earlier.end_time))
    added = batch.out / "new"
    counts = write_histories(spark, batch, events, bounds, added, whole=False)
    fates = observed(seen_ahead)
    last = earlier.last_ordinal
    if new:
        first, newest = seen.get["first_ordinal"], seen.get["last_ordinal"]
        if first is not None and first <= last:
            raise RebuildNeeded(f"a new event has ordinal {first}, which is not behind {last}, the last one before")
        last = last if newest is None else newest
        fates = {name: value + observed(seen)[name] for name, value in fates.items()}
    for name in ("first_ordinal", "last_ordinal"):
        del fates[name]

    batch.tell(f"merging new events of {counts['users']:,} users into {info.num_users:,} sequences")
    rules = MergeRules(
        user_id_kind=manifest.user_id_kind, feature_width=manifest.feature_width, limit=batch.limit,
        start_time=batch.start_time, forgotten=batch.forgotten,
    )  # fmt: skip
    try:
        merged = merge_sequences(previous, added, batch.out, rules)
    except DataError as error:
        raise RebuildNeeded(f"the previous sequences cannot be used: {error}") from error
    fates_of_all = merged.interactions + merged.outside_window + merged.forgotten + merged.repeats + merged.cut
    if fates_of_all != info.num_interactions + counts["interactions"]:
        raise RebuildNeeded(f"the previous sequences are not whole: num_interactions={info.num_interactions} of them")
    shutil.rmtree(added)
    return _finish(
        batch,
        _run_of(batch, files, last, features),
        BatchReport(
            incremental=True,
            rebuilt_because="",
            start_time=batch.start_time,
            end_time=batch.end_time,
            files_read=len(new),
            previous_interactions=info.num_interactions,
            outside_window=fates.pop("outside_window") + merged.outside_window,
            forgotten=fates.pop("forgotten") + merged.forgotten,
            repeats=max(0, fates.pop("used") - counts["distinct"]) + merged.repeats,
            cut=max(0, counts["distinct"] - counts["interactions"]) + merged.cut,
            without_content=merged.without_content,
            users=merged.users,
            interactions=merged.interactions,
            seconds=round(time.perf_counter() - started, 2),
            **fates,
        ),
    )


def _finish(batch: Batch, run: BatchRun, report: BatchReport) -> BatchReport:
    run.save(batch.out)
    report.save(batch.out)
    BatchInfo(
        end_time=batch.end_time,
        start_time=batch.start_time,
        max_interactions_per_user=batch.limit,
        feature_space=batch.manifest.feature_space,
        outcomes=batch.manifest.outcomes,
        surfaces=batch.manifest.surfaces,
        num_users=report.users,
        num_interactions=report.interactions,
    ).save(batch.out)
    if not report.adds_up:
        batch.tell("the report counts some events twice, because Spark had to repeat a step; the sequences are right")
    batch.tell(f"wrote {report.users:,} sequences")
    return report


def _run_of(batch: Batch, files: Sequence[EventFile], last_ordinal: int, features: FeatureTable) -> BatchRun:
    return BatchRun(
        user_id_kind=batch.manifest.user_id_kind,
        start_time=batch.start_time,
        end_time=batch.end_time,
        max_interactions_per_user=batch.limit,
        files=tuple(files),
        last_ordinal=last_ordinal,
        features=features,
    )


def _features(spark: SparkSession, batch: Batch, earlier: FeatureTable | None = None) -> FeatureTable:
    """The present table of features. Raises ``RebuildNeeded`` when it is not the earlier one with rows appended."""
    if batch.local is not None:
        table, first = digest_features(
            batch.local / "features.parquet", first_rows=earlier.rows if earlier is not None else 0
        )
    else:  # a remote table is not read for this; any change of it counts
        first = " ".join(
            f"{name} {size} {modified}" for name, size, modified in listed(spark, f"{batch.tables}/features.parquet")
        )
        table = FeatureTable(rows=0, digest=first)
    if earlier is not None and first != earlier.digest:
        raise RebuildNeeded("features of earlier items changed")
    return table


def _user_id(key: bytes, kind: IdKind) -> int | str:
    """The user of a store key (``ids.user_store_key``)."""
    return int.from_bytes(key, "big") - (1 << 63) if kind is IdKind.INT else key.decode("utf-8")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _main(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset, as `pinrec prepare` writes it.")],
    master: Annotated[str, typer.Option(help="Spark master; spark-submit's own wins over this.")] = "local[*]",
    end_time: Annotated[
        int | None,
        typer.Option(help="Unix seconds, exclusive; default: all events but those that were ahead of the clock."),
    ] = None,
    lookback_days: Annotated[
        int | None, typer.Option(help="How many days before the end sequences may begin; default: no limit.")
    ] = None,
    max_interactions_per_user: Annotated[int, typer.Option(help="The newest this many are kept.")] = 2048,
    driver_memory: Annotated[str, typer.Option(help="Heap of the local Java process.")] = "2g",
) -> None:
    """Turn a prepared dataset into per-user sequences."""
    try:
        path = run_batch_job(
            dataset,
            master=master,
            end_time=end_time,
            lookback_days=lookback_days,
            max_interactions_per_user=max_interactions_per_user,
            driver_memory=driver_memory,
            progress=lambda message: typer.echo(message, err=True),
        )
    except PinRecError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    typer.echo(path)


if __name__ == "__main__":
    typer.run(_main)
