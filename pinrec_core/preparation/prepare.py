"""``prepare_dataset`` turns an event log and its items into a prepared dataset (``pinrec_core.dataset.manifest``).

The log is streamed once and never held in memory; see ``staging``. The Spark job, which makes the sequences in
``signals/``, is passed in by the caller.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pinrec_core.dataset.catalogue import write_catalogue
from pinrec_core.dataset.manifest import MANIFEST_NAME, UNKNOWN_SURFACE, DatasetManifest
from pinrec_core.errors import DataError
from pinrec_core.files.output_folder import output_folder
from pinrec_core.history import ItemType
from pinrec_core.ids import IdKind, item_keys
from pinrec_core.preparation import columns
from pinrec_core.preparation.events import EventCounts, write_events
from pinrec_core.preparation.features import ContentFeatures, FeatureWriter
from pinrec_core.preparation.items import Pins, infer_item_id_kind, read_items, supplied_vector_width
from pinrec_core.preparation.quarantine import QuarantineWriter
from pinrec_core.preparation.reader import Progress, read_batches, resolve_files
from pinrec_core.preparation.report import PrepareReport, quarantine_entries
from pinrec_core.preparation.schema import DatasetSpec
from pinrec_core.preparation.staging import PartitionedSpill, StagedEvents, stage_events
from pinrec_core.preparation.validation import EventValidator
from pinrec_core.representations.text_encoder import text_encoder

REALTIME = Path("signals/realtime")
"""The folder in which `pinrec serve` keeps the real-time events of a dataset by default."""

_ENCODE_TEXTS = 1 << 16  # query texts that are encoded at once


def prepare_dataset(
    spec: DatasetSpec,
    data: Path,
    out: Path,
    *,
    now: int,
    overwrite: bool = False,
    progress: Progress = lambda phase, done, total: None,
    add_signals: Callable[[Path], None] | None = None,
) -> PrepareReport:
    """Prepare the log that ``spec`` describes, in folder ``data``. The result appears at ``out`` whole or not at all.

    Events more than a day after ``now`` (Unix seconds) are set aside; those within the day are kept and counted.
    ``add_signals`` is called with the folder and completes it before it appears at ``out``. Raises ``ConfigError`` for
    a text encoder that is not installed, and ``DataError`` for files that cannot be used as a whole or for an ``out``
    that exists or holds real-time events.
    """
    started = time.perf_counter()
    event_files = resolve_files(data, spec.events.files)
    item_files = resolve_files(data, spec.items.files) if spec.items else {}
    _refuse_shared(event_files, item_files)
    user_id_kind, item_id_kind = _id_kinds(spec, event_files, item_files)
    vector_width = supplied_vector_width(item_files, spec.items) if spec.items else 0

    with output_folder(
        Path(out), overwrite=overwrite, is_replaceable=lambda old: (old / MANIFEST_NAME).is_file(), kind="dataset"
    ) as folder:
        _refuse_real_time_events(Path(out))
        features = ContentFeatures(text_encoder(spec.text_encoder), vector_width)
        with QuarantineWriter(folder) as quarantine:
            items = None
            if spec.items:
                items = read_items(item_files, spec.items, item_id_kind, features, quarantine, progress)
            bad_items = sum(quarantine.counts.values())
            validator = EventValidator(
                spec=spec, user_id_kind=user_id_kind, item_id_kind=item_id_kind, items=items, now=now
            )
            staged = stage_events(event_files, validator, folder / "staging", quarantine, progress)
            surfaces = [UNKNOWN_SURFACE, *staged.surfaces.most_frequent(spec.max_surfaces - 1)]
            counts = write_events(staged, spec, surfaces, folder, quarantine, progress, now=now)
        if not sum(counts.by_action[a] for a in spec.outcomes):
            raise DataError(_nothing_left(spec, staged, counts, quarantine))
        if counts.ahead == counts.valid:
            raise DataError(
                f"{spec.name}: all {counts.valid} valid events are dated after now={now}, the first at "
                f"{counts.first_timestamp}: expected some before it; a clock or a time zone may be wrong"
            )

        pins = items.pins if items else pins_of_log(staged, item_id_kind, features)
        num_queries = _write_content(folder, pins, staged.queries, features)
        shutil.rmtree(folder / "staging")
        _manifest(spec, user_id_kind, item_id_kind, surfaces, features, pins, counts).save(folder)
        report = PrepareReport(
            name=spec.name,
            user_id_kind=user_id_kind,
            item_id_kind=item_id_kind,
            files=staged.rows_read,
            item_files=items.rows_read if items else {},
            rows_read=sum(staged.rows_read.values()),
            valid_events=counts.valid,
            quarantined_events=staged.quarantined + counts.quarantined,
            collapsed_events=counts.collapsed,
            quarantined_items=bad_items,
            num_users=counts.users,
            num_items=len(pins.item_key),
            num_queries=num_queries,
            query_events=counts.queries,
            events_by_action=counts.by_action,
            surfaces=len(surfaces) - 1,
            surfaces_left_out=len([s for s in staged.surfaces.counts if s]) - (len(surfaces) - 1),
            unlisted_surface_events=counts.unlisted_surface,
            events_ahead=counts.ahead,
            seconds=round(time.perf_counter() - started, 2),
            quarantine=quarantine_entries(quarantine),
        )
        report.save(folder)
        if add_signals:
            add_signals(folder)
        _refuse_real_time_events(Path(out))  # again, because a server may have been started in the meantime
    return report


def _refuse_real_time_events(out: Path) -> None:
    """Replacing the dataset would delete these. They are not moved to the new one, where ids may mean other things."""
    store = out / REALTIME
    if store.exists():
        raise DataError(
            f"out={str(out)!r}: expected no real-time events in it, --overwrite would delete {store}; stop the server, "
            f"then keep them elsewhere (`mv {store} STORE`, `pinrec serve --realtime STORE`) or remove that folder"
        )


def _id_kinds(
    spec: DatasetSpec, event_files: Mapping[str, Path], item_files: Mapping[str, Path]
) -> tuple[IdKind, IdKind]:
    """The kinds of user and item ids: those of the mapping, or else those that the first records suggest."""
    name, path = next(iter(event_files.items()))
    first = next(read_batches(path, spec.events.columns, delimiter=spec.events.delimiter), None)
    if first is None or not first.batch.num_rows:
        raise DataError(f"{name}: expected at least one event")
    user = spec.user_id_kind or columns.infer_id_kind(first.batch.column(spec.events.user))
    if spec.item_id_kind:
        return user, spec.item_id_kind
    if spec.items:
        return user, infer_item_id_kind(item_files, spec.items)
    return user, columns.infer_id_kind(first.batch.column(spec.events.item))


def pins_of_log(staged: StagedEvents, kind: IdKind, features: ContentFeatures) -> Pins:
    """The catalogue of a log without an items file. It has ids, but neither titles nor content."""
    assert staged.seen_items is not None
    item_id = staged.seen_items.ids()
    n = len(item_id)
    empty = pa.repeat(pa.scalar(""), n)
    return Pins(
        item_key=item_keys(item_id.to_pylist(), kind),
        item_id=item_id,
        title=empty,
        categories=empty,
        feature=np.zeros((n, features.width), np.int8),
        scale=np.zeros(n, np.float32),
    )


def _write_content(folder: Path, pins: Pins, queries: PartitionedSpill, features: ContentFeatures) -> int:
    """Write ``catalogue.arrow`` and ``features.parquet``. Returns the number of distinct query texts."""
    write_catalogue(
        folder, item_key=pins.item_key, item_id=pins.item_id, title=pins.title, categories=pins.categories,
        feature=pins.feature, scale=pins.scale,
    )  # fmt: skip
    num_queries = 0
    with FeatureWriter(folder) as writer:
        writer.add(pins.item_key, ItemType.PIN, pins.feature, pins.scale)
        for table in queries.partitions():
            distinct = table.group_by("key", use_threads=False).aggregate([("text", "first")])
            num_queries += distinct.num_rows
            for batch in distinct.to_batches(max_chunksize=_ENCODE_TEXTS):
                feature, scale = features.queries(batch.column("text_first").to_pylist())
                writer.add(batch.column("key").to_numpy(), ItemType.QUERY, feature, scale)
    return num_queries


def _manifest(
    spec: DatasetSpec,
    user_id_kind: IdKind,
    item_id_kind: IdKind,
    surfaces: Sequence[str],
    features: ContentFeatures,
    pins: Pins,
    counts: EventCounts,
) -> DatasetManifest:
    positive = [counts.by_action[name] for name in spec.outcomes]
    return DatasetManifest(
        name=spec.name,
        user_id_kind=user_id_kind,
        item_id_kind=item_id_kind,
        outcomes=spec.outcomes,
        query_actions=spec.query_actions,
        ignored_actions=spec.ignored_actions,
        surfaces=tuple(surfaces),
        feature_width=features.width,
        feature_space=features.space,
        text_encoder=features.encoder.spec,
        num_items=len(pins.item_key),
        num_users=counts.users,
        num_events=counts.valid,
        outcome_share=tuple(n / sum(positive) for n in positive),
        first_timestamp=counts.first_timestamp,
        last_timestamp=counts.last_timestamp,
    )


def _nothing_left(spec: DatasetSpec, staged: StagedEvents, counts: EventCounts, quarantine: QuarantineWriter) -> str:
    """A sentence that says why no positive event is left, with the commonest fault as the likely cause."""
    read = sum(staged.rows_read.values())
    sentence = f"{spec.name}: no valid event with an outcome of {list(spec.outcomes)} among {read} rows"
    faults = [entry for entry in quarantine_entries(quarantine) if entry.file in staged.rows_read]
    if not faults:
        return f"{sentence}: expected at least one; actions found: {[a for a, n in counts.by_action.items() if n]}"
    worst = max(faults, key=lambda entry: entry.rows)
    return (
        f"{sentence}: {worst.rows} rows have {worst.reason}, first {worst.file} row {worst.first_row}: "
        f"{worst.first_field}={worst.first_value!r}"
    )


def _refuse_shared(event_files: Mapping[str, Path], item_files: Mapping[str, Path]) -> None:
    """Refuses a file of both events and items, which the report would count twice."""
    shared = sorted(set(event_files) & set(item_files))
    if shared:
        raise DataError(f"files={shared}: expected either events or items, not both")
