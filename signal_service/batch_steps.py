"""The steps of the batch job on Spark: from tables of events and features to sequences, as functions of data frames.

They know no earlier run; ``batch_job`` says which events they get.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Observation, SparkSession, Window
from pyspark.sql import functions as F

from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError, ServerError
from pinrec_core.history import NO_OUTCOME, ItemType
from pinrec_core.ids import IdKind
from signal_service.batch_run import EventFile
from signal_service.sequence_merge import ROW_GROUP_BYTES

PARTITION_BYTES = 64 << 20
SAMPLED_USERS = 20_000  # events whose users decide where one part of the sequences ends and the next begins

_EXCLUDED = "spark.sql.adaptive.optimizer.excludedRules"
_LEAVES_OUT = "org.apache.spark.sql.execution.adaptive.AQEPropagateEmptyRelation"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one run is asked for."""

    manifest: DatasetManifest
    tables: str
    local: Path | None  # the same folder, if it is one of this machine
    out: Path
    start_time: int | None
    end_time: int
    limit: int
    forgotten: Mapping[int | str, int]
    tell: Progress

    def num_parts(self, events: int) -> int:
        return max(2, math.ceil(joined_bytes(self.manifest, events) / PARTITION_BYTES))


def used_events(events: DataFrame, batch: Batch, seen: Observation, previous_end: int | None) -> DataFrame:
    """The used events, with actions and surfaces as numbers. ``seen`` counts them and all others.

    Used are positive engagements and queries within the window, except forgotten ones. Those before ``previous_end``
    are late.
    """
    manifest = batch.manifest
    is_query = F.col("item_type") == int(ItemType.QUERY)
    action = F.coalesce(F.col("action"), F.lit(""))
    is_positive = ~is_query & action.isin(list(manifest.outcomes))
    known = action.isin([*manifest.outcomes, *manifest.query_actions, *manifest.ignored_actions])
    relevant = is_query | is_positive
    in_time = F.col("timestamp") < batch.end_time
    if batch.start_time is not None:
        in_time &= F.col("timestamp") >= batch.start_time
    marked, is_forgotten = events, F.lit(False)
    if batch.forgotten:
        ids = pa.array(list(batch.forgotten), pa.int64() if manifest.user_id_kind is IdKind.INT else pa.string())
        times = pa.array(list(batch.forgotten.values()), pa.int64())
        tombstones = events.sparkSession.createDataFrame(pa.table({"user_id": ids, "forgotten_at": times}))
        marked = events.join(F.broadcast(tombstones), on="user_id", how="left")
        is_forgotten = F.coalesce(F.col("timestamp") <= F.col("forgotten_at"), F.lit(False))
    used = relevant & in_time & ~is_forgotten
    late = F.lit(False) if previous_end is None else used & (F.col("timestamp") < previous_end)
    surface = F.coalesce(F.col("surface"), F.lit(""))
    counted = marked.observe(
        seen,
        F.count(F.lit(1)).alias("events_read"),
        F.count_if(is_positive).alias("positive"),
        F.count_if(is_query).alias("queries"),
        F.count_if(~relevant & known).alias("ignored"),
        F.count_if(~relevant & ~known).alias("unknown_action"),
        F.count_if(~surface.isin(list(manifest.surfaces))).alias("unknown_surface"),
        F.count_if(relevant & ~in_time).alias("outside_window"),
        F.count_if(relevant & in_time & is_forgotten).alias("forgotten"),
        F.count_if(late).alias("late"),
        F.count_if(used).alias("used"),
        F.min("ordinal").alias("first_ordinal"),
        F.max("ordinal").alias("last_ordinal"),
    )
    return counted.where(used).select(
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


def write_histories(
    spark: SparkSession,
    batch: Batch,
    events: Sequence[DataFrame],
    bounds: Sequence[int | str],
    out: Path,
    *,
    whole: bool,
) -> dict[str, int]:
    """Write the users' sequences in order to the folder ``out``. Returns their counts. See ``group_by_user``."""
    used = events[0]
    for more in events[1:]:
        used = used.unionByName(more)
    distinct, missing, counts = Observation("distinct"), Observation("missing features"), Observation("counts")
    once = first_occurrences(split_by_user(used, bounds)).observe(distinct, F.count(F.lit(1)).alias("distinct"))
    joined = join_features(newest_per_user(once, batch.limit), _read_table(spark, f"{batch.tables}/features.parquet"))
    checked = joined.observe(
        missing, F.count_if(F.col("feature").isNull() & (F.col("age") <= batch.limit)).alias("missing")
    )
    sequences = group_by_user(checked, batch.limit, len(bounds) + 1, whole=whole, counts=counts)
    try:
        with _no_step_left_out(spark):
            sequences.write.mode("append").option("parquet.block.size", ROW_GROUP_BYTES).option(
                "mapreduce.fileoutputcommitter.marksuccessfuljobs", "false"
            ).parquet(f"file://{out}", compression="zstd")
    except PySparkException as error:
        raise ServerError(f"the Spark job failed: {error}") from error
    if missing.get["missing"]:
        raise DataError(f"{missing.get['missing']} events have no row in features.parquet: expected one for each")
    for checksum in out.glob(".*.crc"):  # Hadoop's, of the files' names before the next line
        checksum.unlink()
    for part in sorted(out.glob("part-*.parquet")):
        part.rename(out / f"{part.name[: len('part-00000')]}.parquet")
    return observed(counts) | observed(distinct)


@contextmanager
def _no_step_left_out(spark: SparkSession) -> Iterator[None]:
    """Where there are no events, Spark would leave out the steps before and after, and with them their counts."""
    earlier = spark.conf.get(_EXCLUDED, "")
    spark.conf.set(_EXCLUDED, _LEAVES_OUT)
    try:
        yield
    finally:
        spark.conf.set(_EXCLUDED, earlier or "")


def observed(observation: Observation) -> dict[str, int]:
    """The counts. Of no events, Spark gives null for a sum."""
    return {name: value or 0 for name, value in observation.get.items()}


def split_by_user(events: DataFrame, bounds: Sequence[int | str]) -> DataFrame:
    """The events with their ``part``: 0 for users before ``bounds[0]``, and so on. A part is a partition of its own.

    All steps per user work on these partitions, so that events are shuffled once, and parts end up in order.
    """

    def part(low: int, high: int) -> Column:  # a tree, which takes log2 of the parts for each event
        if low == high:
            return F.lit(low)
        middle = (low + high) // 2
        return F.when(F.col("user_id") < bounds[middle], part(low, middle)).otherwise(part(middle + 1, high))

    placed = events.withColumn("part", part(0, len(bounds)).cast("int"))
    return placed.repartitionById(len(bounds) + 1, F.col("part"))


def first_occurrences(events: DataFrame) -> DataFrame:
    """The first of each user's interactions with the same item, outcome and time, as ``merge`` keeps it at serving."""
    same = ("part", "user_id", "item_key", "item_type", "outcome", "timestamp")
    earliest_first = Window.partitionBy(*same).orderBy("ordinal")
    return events.withColumn("repeat", F.row_number().over(earliest_first)).where(F.col("repeat") == 1).drop("repeat")


def newest_per_user(events: DataFrame, limit: int) -> DataFrame:
    """The newest ``limit`` events of each user, and those at the same time as the oldest of these, with their ``age``.

    There are at most 2 ``limit`` + 1 of them. A window does this without collecting all events of a user first.
    """
    user = Window.partitionBy("part", "user_id")
    aged = events.withColumn("age", F.row_number().over(user.orderBy(F.desc("timestamp"), F.desc("ordinal"))))
    ranked = aged.withColumn("rank", F.rank().over(user.orderBy(F.desc("timestamp"))))
    return ranked.where((F.col("rank") <= limit) & (F.col("age") <= 2 * limit + 1)).drop("rank")


def join_features(events: DataFrame, features: DataFrame) -> DataFrame:
    """Each event with the INT8 feature and scale of its item, which are null for an unknown item."""
    keyed = features.select(F.col("key").alias("item_key"), "item_type", "feature", "scale")
    return events.join(keyed, on=["item_key", "item_type"], how="left")


def group_by_user(events: DataFrame, limit: int, num_parts: int, *, whole: bool, counts: Observation) -> DataFrame:
    """One row per user, in order, with a list for each field, oldest first. ``counts`` counts users and interactions.

    The lists of ``whole`` histories are cut to ``limit``, and the columns of ``sequence_merge`` say what was cut at the
    time of the oldest one. Otherwise they keep all that ``newest_per_user`` gives.
    """
    fields = ("item_key", "item_type", "outcome", "surface", "timestamp", "feature", "scale")
    element = F.struct("timestamp", "ordinal", *(f for f in fields if f != "timestamp"))
    grouped = (
        events.repartitionById(num_parts, F.col("part"))
        .groupBy("part", "user_id")
        .agg(F.sort_array(F.collect_list(element)).alias("events"))
        .sortWithinPartitions("user_id")
    )
    surplus = F.greatest(F.size("events") - limit, F.lit(0)) if whole else F.lit(0)
    kept = F.slice("events", surplus + 1, F.size("events") - surplus)
    tied = F.sort_array(
        F.transform(F.slice("events", F.lit(1), surplus), lambda e: F.struct(e["item_key"], e["outcome"]))
    )
    halves = grouped.select("user_id", kept.alias("kept"), F.when(surplus <= limit, tied).alias("tied"))
    counted = halves.observe(
        counts,
        F.count(F.lit(1)).alias("users"),
        F.sum(F.size("kept")).alias("interactions"),
        F.sum(F.size(F.filter("kept", lambda e: e["scale"] == 0))).alias("without_content"),
    )
    cut = (F.col("tied.item_key").alias("cut_item_key"), F.col("tied.outcome").alias("cut_outcome")) if whole else ()
    return counted.select("user_id", *(F.col(f"kept.{name}").alias(name) for name in fields), *cut)


def part_bounds(events: DataFrame, parts: int, expected: int) -> list[int | str]:
    """Up to ``parts`` − 1 users, ascending, that divide the events into parts of about the same size."""
    if parts == 1:
        return []
    share = min(1.0, SAMPLED_USERS / max(1, expected))
    sample = sorted(row[0] for row in events.select("user_id").sample(fraction=share, seed=0).collect())
    first = next(
        (at for at, user in enumerate(sample) if user != sample[0]), len(sample)
    )  # so that the first part has users
    at = {max(first, len(sample) * part // parts) for part in range(1, parts)}
    return sorted({sample[position] for position in at if position < len(sample)})


def _position(column: str, vocabulary: tuple[str, ...]) -> Column:
    """The index of the column's value in ``vocabulary``; −1 where the value is null or not in it."""
    names = F.array(*(F.lit(name) for name in vocabulary))
    return F.coalesce(F.array_position(names, F.col(column)) - 1, F.lit(-1))


def event_files(spark: SparkSession, tables: str) -> list[EventFile]:
    """The files of events by name. Raises ``DataError`` when there are none."""
    found = [
        EventFile(name=name, size=size)
        for name, size, _ in listed(spark, f"{tables}/events")
        if name.endswith(".parquet") and not name.startswith((".", "_"))
    ]
    if not found:
        raise DataError(f"{tables}/events: expected parquet files")
    return sorted(found, key=lambda file: file.name)


def listed(spark: SparkSession, url: str) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file in a folder (or of one file), on any file system that Spark reads."""
    try:
        assert spark._jvm is not None
        path = spark._jvm.org.apache.hadoop.fs.Path(url)
        found = path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf()).listStatus(path)
        return [(s.getPath().getName(), int(s.getLen()), int(s.getModificationTime())) for s in found]
    except Exception as error:  # Py4J raises the errors of Java as one class
        raise DataError(f"{url}: expected a folder that Spark can read, {str(error).splitlines()[0]}") from error


def read_events(spark: SparkSession, batch: Batch, files: Sequence[EventFile]) -> DataFrame:
    return _read_table(spark, *(f"{batch.tables}/events/{file.name}" for file in files))


def _read_table(spark: SparkSession, *urls: str) -> DataFrame:
    try:
        return spark.read.parquet(*urls)
    except PySparkException as error:
        raise DataError(f"{urls[0]}: expected parquet files, {error}") from error


def joined_bytes(manifest: DatasetManifest, events: int) -> int:
    return events * (manifest.feature_width + 64)
