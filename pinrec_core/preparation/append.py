"""``append_events`` adds a further piece of a log, such as a day, to a prepared dataset without preparing all again.

Ids, vocabularies and the recipe of the features stay as they are. New items get rows in the catalogue, and new items
and queries get rows in the features, behind the earlier ones. All events of a piece are one file, which comes last and
in one step: a call that was interrupted before can be repeated. New events are compared with each other here; the batch
job compares them with earlier ones by user, item, outcome and time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pinrec_core.dataset.catalogue import ItemCatalogue, write_catalogue
from pinrec_core.dataset.manifest import CATALOGUE_NAME, MANIFEST_NAME, DatasetManifest
from pinrec_core.errors import DataError, require
from pinrec_core.files.folder_lock import locked
from pinrec_core.history import ItemType
from pinrec_core.preparation import features as feature_file
from pinrec_core.preparation import quarantine as quarantine_file
from pinrec_core.preparation.events import FOLDER_NAME, EventCounts, write_events
from pinrec_core.preparation.features import ContentFeatures, FeatureWriter
from pinrec_core.preparation.items import ItemTable, Pins, read_items
from pinrec_core.preparation.prepare import pins_of_log
from pinrec_core.preparation.quarantine import QuarantineWriter
from pinrec_core.preparation.reader import Progress, resolve_files
from pinrec_core.preparation.report import QuarantineEntry, quarantine_entries
from pinrec_core.preparation.schema import DatasetSpec
from pinrec_core.preparation.staging import PartitionedSpill, stage_events
from pinrec_core.preparation.validation import EventValidator
from pinrec_core.representations.text_encoder import text_encoder

STAGING = ".appending"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendReport:
    """Counts of one call. ``rows_read = valid_events + quarantined_events``."""

    file: str  # the new file, relative to the dataset
    rows_read: int
    valid_events: int
    quarantined_events: int
    new_items: int
    new_queries: int
    quarantine: tuple[QuarantineEntry, ...]


def append_events(
    spec: DatasetSpec,
    data: Path,
    dataset: Path,
    *,
    now: int,
    progress: Progress = lambda phase, done, total: None,
) -> AppendReport:
    """Add the log that ``spec`` describes, in folder ``data``, to the dataset that was prepared with the same mapping.

    The items files in ``data`` hold new items; there may be none. Rows of items that are known already are left out.
    Surfaces outside the vocabulary are unknown. In the manifest, ``num_events``, ``num_items`` and the times are
    brought up to date; ``num_users`` and ``outcome_share`` stay those of the first preparation. The next call or the
    batch job sees either all of the new events or none. Raises ``DataError`` for a mapping that does not fit the
    dataset, or that can only be applied to a whole log, and ``ConfigError`` while another call is at work.
    """
    dataset = Path(dataset)
    manifest = DatasetManifest.load(dataset)
    features = ContentFeatures(text_encoder(spec.text_encoder), _vector_width(manifest))
    _check_fits(spec, manifest, features)
    event_files = resolve_files(data, spec.events.files)
    item_files = resolve_files(data, spec.items.files) if spec.items and _any_file(data, spec.items.files) else {}
    staging = dataset / STAGING
    with locked(dataset, refusal=f"{dataset}: another process appends events to it; wait until it has ended"):
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        staging.mkdir()
        try:
            return _append(spec, manifest, features, event_files, item_files, dataset, staging, now, progress)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _append(
    spec: DatasetSpec,
    manifest: DatasetManifest,
    features: ContentFeatures,
    event_files: dict[str, Path],
    item_files: dict[str, Path],
    dataset: Path,
    staging: Path,
    now: int,
    progress: Progress,
) -> AppendReport:
    catalogue = ItemCatalogue.open(dataset)
    with QuarantineWriter(staging) as quarantine:
        pins = None
        if spec.items and item_files:
            table = read_items(item_files, spec.items, manifest.item_id_kind, features, quarantine, progress)
            pins = _unknown(table.pins, catalogue)
        bad_items = sum(quarantine.counts.values())
        validator = EventValidator(
            spec=spec, user_id_kind=manifest.user_id_kind, item_id_kind=manifest.item_id_kind, now=now,
            items=_known_items(catalogue, pins) if spec.items else None,
        )  # fmt: skip
        staged = stage_events(event_files, validator, staging / "staged", quarantine, progress)
        counts = write_events(staged, spec, manifest.surfaces, staging, quarantine, progress, now=now)
        quarantined = sum(quarantine.counts.values()) - bad_items
    if not counts.valid:
        raise DataError(f"{list(event_files)}: expected at least one valid event, {quarantined} rows were set aside")
    if not spec.items:
        pins = _unknown(pins_of_log(staged, manifest.item_id_kind, features), catalogue)

    new_queries = _write_features(dataset, staging, pins, staged.queries, features)
    new_items = _write_new_catalogue(staging, catalogue, dataset, pins)
    number = _next_number(dataset)
    _write_one_file(dataset, staging)
    earlier_events = sum(pq.read_metadata(part).num_rows for part in _parts(dataset))
    _updated(manifest, earlier_events, counts, new_items).save(staging)
    name = f"{FOLDER_NAME}/part-{number:05d}.parquet"
    for file, place in {
        feature_file.FILE_NAME: feature_file.FILE_NAME,
        CATALOGUE_NAME: CATALOGUE_NAME,
        quarantine_file.FILE_NAME: f"quarantine-{number:05d}.parquet",
        MANIFEST_NAME: MANIFEST_NAME,
        "events.parquet": name,  # last: from here on, the events are there
    }.items():
        if (staging / file).exists():
            (staging / file).replace(dataset / place)
    return AppendReport(
        file=name,
        rows_read=sum(staged.rows_read.values()),
        valid_events=counts.valid,
        quarantined_events=quarantined,
        new_items=new_items,
        new_queries=new_queries,
        quarantine=quarantine_entries(quarantine),
    )


def _check_fits(spec: DatasetSpec, manifest: DatasetManifest, features: ContentFeatures) -> None:
    """Raises ``DataError`` for a mapping by which the same row would mean something else, or needs the whole log."""
    for name in ("outcomes", "query_actions", "ignored_actions"):
        require(getattr(spec, name) == getattr(manifest, name), name, getattr(spec, name),
                f"{getattr(manifest, name)}, as the dataset has", error=DataError)  # fmt: skip
    require(features.space == manifest.feature_space, "text_encoder", spec.text_encoder,
            f"what makes features of {manifest.feature_space}", error=DataError)  # fmt: skip
    require(not spec.collapse_repeats, "collapse_repeats", True,
            "false: the first event of a piece may repeat the last one before it", error=DataError)  # fmt: skip
    require(spec.items is None or spec.items.is_query is None, "items.is_query", spec.items and spec.items.is_query,
            "none: the texts of earlier query items are not in the dataset", error=DataError)  # fmt: skip


def _vector_width(manifest: DatasetManifest) -> int:
    """The width of the supplied vectors, which is part of the name of the feature space."""
    return int(manifest.feature_space.rpartition("+vector:")[2])


def _any_file(data: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(Path(data).glob(pattern), None) is not None for pattern in patterns)


def _unknown(pins: Pins, catalogue: ItemCatalogue) -> Pins:
    """The pins that are not in the catalogue."""
    new = catalogue.rows_of(pins.item_key) < 0
    keep = pa.array(new)
    return Pins(
        item_key=pins.item_key[new], item_id=pins.item_id.filter(keep), title=pins.title.filter(keep),
        categories=pins.categories.filter(keep), feature=pins.feature[new], scale=pins.scale[new],
    )  # fmt: skip


def _known_items(catalogue: ItemCatalogue, pins: Pins | None) -> ItemTable:
    """A lookup of all keys, earlier and new. It holds no queries, and of its pins only the new ones."""
    none = np.empty(0, np.int64)
    if pins is None:
        empty = pa.array([], pa.string())
        pins = Pins(
            item_key=none, item_id=empty, title=empty, categories=empty,
            feature=np.empty((0, 0), np.int8), scale=np.empty(0, np.float32),
        )  # fmt: skip
    key = np.sort(np.concatenate([catalogue.item_key, pins.item_key]))
    return ItemTable(
        pins=pins, key=key, query=np.full(len(key), -1), query_text=pa.array([], pa.string()), rows_read={}
    )


def _write_features(
    dataset: Path, staging: Path, pins: Pins | None, queries: PartitionedSpill, features: ContentFeatures
) -> int:
    """Write ``features.parquet`` with the new rows behind the earlier ones. Returns the number of new queries."""
    earlier = dataset / feature_file.FILE_NAME
    known = _query_keys(earlier)
    written = 0
    with FeatureWriter(staging) as writer:
        writer.add_all_of(earlier)
        if pins is not None:
            writer.add(pins.item_key, ItemType.PIN, pins.feature, pins.scale)
        for key, text in _distinct(queries):
            new = ~np.isin(key, known)
            feature, scale = features.queries(text.filter(pa.array(new)).to_pylist())
            writer.add(key[new], ItemType.QUERY, feature, scale)
            written += int(new.sum())
    if not written and (pins is None or not len(pins.item_key)):
        (staging / feature_file.FILE_NAME).unlink()  # nothing new: the file keeps its place
    return written


def _distinct(queries: PartitionedSpill) -> Iterator[tuple[np.ndarray, pa.Array]]:
    for table in queries.partitions():
        if table.num_rows:
            once = table.group_by("key", use_threads=False).aggregate([("text", "first")]).combine_chunks()
            yield once["key"].to_numpy(), once["text_first"].combine_chunks()


def _query_keys(path: Path) -> np.ndarray:
    """The keys of all queries with features."""
    table = pq.read_table(path, columns=["key", "item_type"])
    return table.filter(pc.equal(table["item_type"], int(ItemType.QUERY)))["key"].to_numpy()


def _write_new_catalogue(staging: Path, catalogue: ItemCatalogue, dataset: Path, pins: Pins | None) -> int:
    """Write the catalogue with the new items, if there are any. Returns their number."""
    if pins is None or not len(pins.item_key):
        return 0
    with pa.memory_map(str(dataset / CATALOGUE_NAME)) as source:
        table = pa.ipc.open_file(source).read_all().combine_chunks()

        def both(name: str, new: pa.Array) -> pa.Array:
            return pa.concat_arrays([*table[name].chunks, new.cast(table[name].type)])

        write_catalogue(
            staging,
            item_key=np.concatenate([catalogue.item_key, pins.item_key]),
            item_id=both("item_id", pins.item_id),
            title=both("title", pins.title),
            categories=both("categories", pins.categories),
            feature=np.concatenate([catalogue.feature, pins.feature]),
            scale=np.concatenate([catalogue.scale, pins.scale]),
        )
    return len(pins.item_key)


def _parts(dataset: Path) -> list[Path]:
    return sorted((dataset / FOLDER_NAME).glob("*.parquet"))


def _next_number(dataset: Path) -> int:
    """One above the number of every event file."""
    numbers = [int(digits) for part in _parts(dataset) if (digits := part.stem.rpartition("-")[2]).isdigit()]
    return max(numbers, default=-1) + 1


def _write_one_file(dataset: Path, staging: Path) -> None:
    """Join the new events into ``staging/events.parquet``. Their ordinals are above all that the dataset has."""
    first = 1 + max((_last_ordinal(part) for part in _parts(dataset)), default=-1)
    new = _parts(staging)
    with pq.ParquetWriter(staging / "events.parquet", pq.read_schema(new[0]), compression="zstd") as writer:
        for part in new:
            table = pq.read_table(part)
            at = table.schema.get_field_index("ordinal")
            writer.write_table(table.set_column(at, table.schema.field(at), pc.add(table["ordinal"], first)))


def _last_ordinal(part: Path) -> int:
    """The highest ordinal in a file of events, from its statistics where it has them."""
    with pq.ParquetFile(part) as file:
        column = file.schema_arrow.get_field_index("ordinal")
        groups = [file.metadata.row_group(g).column(column).statistics for g in range(file.metadata.num_row_groups)]
        if all(statistics is not None and statistics.has_min_max for statistics in groups):
            return max((statistics.max for statistics in groups), default=-1)
    return pc.max(pq.read_table(part, columns=["ordinal"])["ordinal"]).as_py()


def _updated(manifest: DatasetManifest, earlier_events: int, counts: EventCounts, new_items: int) -> DatasetManifest:
    return replace(
        manifest,
        num_events=earlier_events + counts.valid,
        num_items=manifest.num_items + new_items,
        first_timestamp=min(manifest.first_timestamp, counts.first_timestamp),
        last_timestamp=max(manifest.last_timestamp, counts.last_timestamp),
    )
