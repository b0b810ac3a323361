"""The batch job (PinRec, serving): one PySpark job from a prepared dataset to per-user, time-ordered sequences.

It keeps positive engagements and queries before the end time of the batch, joins the INT8 features and writes
``signals/sequences``. Training and serving both read that output, so they agree. The job knows nothing of models or
stores. Run it as ``python -m signal_service.batch_job DATASET`` or with ``spark-submit``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Observation, SparkSession, Window
from pyspark.sql import functions as F

from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import BatchInfo, is_batch
from pinrec_core.errors import DataError, PinRecError, ServerError, require
from pinrec_core.files.output_folder import output_folder
from pinrec_core.history import NO_OUTCOME, ItemType
from signal_service.spark_session import spark_session

SECONDS_PER_DAY = 86_400
PARTITION_BYTES = 64 << 20
QUICK_BYTES = 512 << 20
"""Up to this size of the join, Java's quick compiler pays: the job took .6 of the time at 30 MiB, .9 at 490
(docs/log.md)."""
ROW_GROUP_BYTES = 16 << 20  # the amount that a reader holds at a time

Progress = Callable[[str], None]


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
    """Write ``dataset/signals/sequences`` anew and return its path.

    ``end_time`` (Unix seconds, exclusive) defaults to just behind the manifest's ``last_timestamp``, which leaves out
    events that were ahead of the clock. ``lookback_days`` bounds how far before it a sequence begins. Each user keeps
    the newest ``max_interactions_per_user``. Equal times are in the order of the log. Raises ``DataError`` for an
    unusable dataset and ``ServerError`` when Spark cannot run.
    """
    dataset = Path(dataset).resolve()
    tell = progress or (lambda _: None)
    manifest = DatasetManifest.load(dataset)
    end_time = manifest.last_timestamp + 1 if end_time is None else end_time
    require(max_interactions_per_user > 0, "max_interactions_per_user", max_interactions_per_user, "at least 1",
            error=DataError)  # fmt: skip
    require(lookback_days is None or lookback_days > 0, "lookback_days", lookback_days, "at least 1", error=DataError)
    require(end_time > manifest.first_timestamp, "end_time", end_time,
            f"above {manifest.first_timestamp}, the time of the first event", error=DataError)  # fmt: skip
    start_time = None if lookback_days is None else end_time - lookback_days * SECONDS_PER_DAY
    for part in ("events", "features.parquet"):
        if not (dataset / part).exists():
            raise DataError(f"{dataset / part}: expected a part of a prepared dataset; run `pinrec prepare` first")

    tell("starting Spark")
    joined_bytes = manifest.num_events * (manifest.feature_width + 64)
    with (
        output_folder(
            dataset / "signals" / "sequences", overwrite=True, is_replaceable=is_batch, kind="batch of sequences"
        ) as folder,
        spark_session(
            name="pinrec-batch-signals",
            master=master,
            driver_memory=driver_memory,
            shuffle_partitions=max(2, math.ceil(joined_bytes / PARTITION_BYTES)),
            quick=joined_bytes <= QUICK_BYTES,
        ) as spark,
    ):
        tell(f"building sequences from {manifest.num_events:,} events")
        events = select_signals(_read(spark, dataset / "events"), manifest, start_time=start_time, end_time=end_time)
        newest = newest_per_user(first_occurrences(events), max_interactions_per_user)
        joined, missing = join_features(newest, _read(spark, dataset / "features.parquet"))
        sequences, counts = group_by_user(joined)
        _write(sequences, folder)
        if missing.get["missing"]:
            raise DataError(f"{missing.get['missing']} events have no row in features.parquet: expected one for each")
        BatchInfo(
            end_time=end_time,
            start_time=start_time,
            max_interactions_per_user=max_interactions_per_user,
            feature_space=manifest.feature_space,
            outcomes=manifest.outcomes,
            surfaces=manifest.surfaces,
            num_users=counts.get["num_users"],
            num_interactions=counts.get["num_interactions"] or 0,
        ).save(folder)
        manifest.save(dataset / "signals")  # so that the signals folder can be used on its own
        tell(f"wrote {counts.get['num_users']:,} sequences")
    return dataset / "signals" / "sequences"


def select_signals(events: DataFrame, manifest: DatasetManifest, *, start_time: int | None, end_time: int) -> DataFrame:
    """Positive engagements and queries in ``[start_time, end_time)``, with actions and surfaces as numbers."""
    is_query = F.col("item_type") == int(ItemType.QUERY)
    is_positive = ~is_query & F.col("action").isin(list(manifest.outcomes))
    in_time = F.col("timestamp") < end_time
    if start_time is not None:
        in_time &= F.col("timestamp") >= start_time
    return events.where(in_time & (is_query | is_positive)).select(
        "user_id",
        "item_key",
        "item_type",
        F.when(is_query, F.lit(NO_OUTCOME))
        .otherwise(_position("action", manifest.outcomes))
        .cast("smallint")
        .alias("outcome"),
        F.greatest(_position("surface", manifest.surfaces), F.lit(0)).cast("smallint").alias("surface"),
        "timestamp",
        "ordinal",
    )


def first_occurrences(events: DataFrame) -> DataFrame:
    """The first of each user's interactions with the same item, outcome and time, as ``merge`` keeps it at serving.

    The events are partitioned by user, which the next window needs as well, so that they are shuffled only once.
    """
    same = ("user_id", "item_key", "item_type", "outcome", "timestamp")
    earliest_first = Window.partitionBy(*same).orderBy("ordinal")
    repeat = events.repartition("user_id").withColumn("repeat", F.row_number().over(earliest_first))
    return repeat.where(F.col("repeat") == 1).drop("repeat")


def newest_per_user(events: DataFrame, limit: int) -> DataFrame:
    """The newest ``limit`` events of each user. A window does this without collecting all events of a user first."""
    newest_first = Window.partitionBy("user_id").orderBy(F.desc("timestamp"), F.desc("ordinal"))
    return events.withColumn("age", F.row_number().over(newest_first)).where(F.col("age") <= limit).drop("age")


def join_features(events: DataFrame, features: DataFrame) -> tuple[DataFrame, Observation]:
    """Each event with the INT8 feature and scale of its item. The observation counts events without as ``missing``."""
    keyed = features.select(F.col("key").alias("item_key"), "item_type", "feature", "scale")
    missing = Observation("missing features")
    joined = events.join(keyed, on=["item_key", "item_type"], how="left")
    return joined.observe(missing, F.count_if(F.col("feature").isNull()).alias("missing")), missing


def group_by_user(events: DataFrame) -> tuple[DataFrame, Observation]:
    """One row per user with a list for each field, oldest first. The observation counts users and interactions."""
    fields = ("item_key", "item_type", "outcome", "surface", "timestamp", "feature", "scale")
    element = F.struct("timestamp", "ordinal", *(f for f in fields if f != "timestamp"))
    grouped = events.groupBy("user_id").agg(F.sort_array(F.collect_list(element)).alias("events"))
    counts = Observation("counts")
    counted = grouped.observe(
        counts, F.count(F.lit(1)).alias("num_users"), F.sum(F.size("events")).alias("num_interactions")
    )
    return counted.select("user_id", *(F.col(f"events.{name}").alias(name) for name in fields)), counts


def _position(column: str, vocabulary: tuple[str, ...]) -> Column:
    """The index of the column's value in ``vocabulary``; −1 where the value is null or not in it."""
    names = F.array(*(F.lit(name) for name in vocabulary))
    return F.coalesce(F.array_position(names, F.col(column)) - 1, F.lit(-1))


def _read(spark: SparkSession, path: Path) -> DataFrame:
    try:
        return spark.read.parquet(f"file://{path}")
    except PySparkException as error:
        raise DataError(f"{path}: expected parquet files, {error}") from error


def _write(sequences: DataFrame, folder: Path) -> None:
    try:
        sequences.write.mode("overwrite").option("parquet.block.size", ROW_GROUP_BYTES).option(
            "mapreduce.fileoutputcommitter.marksuccessfuljobs", "false"
        ).parquet(f"file://{folder}", compression="zstd")
    except PySparkException as error:
        raise ServerError(f"the Spark job failed: {error}") from error


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
