"""Splits one batch of raw event rows into valid events and faults. It holds the rules for a single event.

It sees one batch at a time, so it cannot find repeats and duplicates; ``events`` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pinrec_core.errors import DataError
from pinrec_core.history import ItemType
from pinrec_core.ids import IdKind
from pinrec_core.preparation import columns
from pinrec_core.preparation.items import ItemTable
from pinrec_core.preparation.quarantine import Faults, Reason
from pinrec_core.preparation.reader import RawBatch
from pinrec_core.preparation.schema import DatasetSpec

EARLIEST = 631_152_000  # 1990-01-01T00:00:00Z; earlier times come from wrong clocks or units
CLOCK_SKEW = 86_400  # seconds by which an event may be ahead of `now`
_ITEM_TYPES = ("pin", "query")  # in the order of ItemType


def staged_schema(user_id_kind: IdKind) -> pa.Schema:
    """The columns of a valid event before ``events`` writes it. ``event_key`` is 0 for an event without an event id.

    ``action`` holds the position in ``DatasetSpec.actions``.
    """
    return pa.schema(
        {
            "user_id": pa.int64() if user_id_kind is IdKind.INT else pa.string(),
            "item_key": pa.int64(),
            "item_type": pa.int8(),
            "action": pa.int16(),
            "surface": pa.string(),
            "timestamp": pa.int64(),
            "ordinal": pa.int64(),
            "event_key": pa.int64(),
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedBatch:
    """The n valid events of a batch (``staged_schema``), and the faults. All other fields have one entry per event."""

    events: pa.RecordBatch
    user_key: np.ndarray  # int64 [n]
    item_id: pa.Array  # as in the log; it has a meaning for pins only
    query_text: pa.StringArray  # '' for pins
    faults: pa.Table | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventValidator:
    """The rules for one log. With ``items`` None every item is known. ``now`` is in Unix seconds."""

    spec: DatasetSpec
    user_id_kind: IdKind
    item_id_kind: IdKind
    items: ItemTable | None
    now: int

    def check(self, raw: RawBatch, *, file: str, first_ordinal: int) -> CheckedBatch:
        """The valid events of a batch, and the faults of the other rows.

        Raises ``DataError`` for a column of an impossible type and for an item type that has no embedder.
        """
        spec, mapping, batch = self.spec, self.spec.events, raw.batch
        faults = Faults(raw.rows)
        user_id, user_key = columns.ids(batch.column(mapping.user), self.user_id_kind, faults, mapping.user)
        action = self._action_codes(batch, faults)
        timestamp = self._timestamps(batch, faults)
        surface = self._optional_text(batch, mapping.surface, faults)
        event_key = self._event_keys(batch, faults)
        declared = self._declared_types(batch, file, raw.rows)

        is_query_action = (action >= len(spec.outcomes)) & (action < len(spec.outcomes) + len(spec.query_actions))
        own_text = self._optional_text(batch, mapping.query, faults)
        has_own_text = is_query_action & columns.mask(pc.not_equal(own_text, ""))
        item_id, item_key, item_query = self._items(batch, has_own_text, faults)

        is_query = (item_query >= 0) | (declared == ItemType.QUERY) | is_query_action
        is_outcome = (action >= 0) & (action < len(spec.outcomes))
        contradiction = (is_outcome & is_query) | (is_query_action & (declared == ItemType.PIN))
        faults.mark(contradiction, Reason.ITEM_TYPE_MISMATCH, mapping.item, item_id)

        query_text = self._query_texts(own_text, item_query)
        lacking = is_query & columns.mask(pc.equal(query_text, ""))
        faults.mark(lacking, Reason.MISSING_QUERY_TEXT, mapping.query or mapping.item, item_id)
        query_text = pc.if_else(pa.array(is_query), query_text, "")

        events = pa.record_batch(
            [
                user_id,
                np.where(is_query, columns.text_keys(query_text), item_key),
                is_query.astype(np.int8),
                action,
                surface,
                timestamp,
                first_ordinal + raw.rows,
                event_key,
            ],
            schema=staged_schema(self.user_id_kind),
        )
        valid = pa.array(faults.ok)
        return CheckedBatch(
            events=events.filter(valid),
            user_key=user_key[faults.ok],
            item_id=item_id.filter(valid),
            query_text=query_text.filter(valid),
            faults=faults.table(),
        )

    def _action_codes(self, batch: pa.RecordBatch, faults: Faults) -> np.ndarray:
        """int16 ``[n]``: the positions in ``spec.actions``; −1 for an unknown action."""
        field = self.spec.events.action
        text = columns.texts(batch.column(field), faults, field, required=True)
        code = pc.fill_null(pc.index_in(text, pa.array(self.spec.actions)), -1).to_numpy(zero_copy_only=False)
        faults.mark(code < 0, Reason.UNKNOWN_ACTION, field, text)
        return code.astype(np.int16)

    def _timestamps(self, batch: pa.RecordBatch, faults: Faults) -> np.ndarray:
        mapping = self.spec.events
        column = batch.column(mapping.timestamp)
        timestamp = columns.seconds(column, mapping.time_unit, faults, mapping.timestamp)
        if mapping.order_only_time:
            outside = timestamp < 0
        else:
            outside = (timestamp < EARLIEST) | (timestamp > self.now + CLOCK_SKEW)
        faults.mark(outside, Reason.TIME_OUT_OF_RANGE, mapping.timestamp, column)
        return timestamp

    def _optional_text(self, batch: pa.RecordBatch, field: str | None, faults: Faults) -> pa.StringArray:
        if field is None:
            return pa.array([""] * batch.num_rows, pa.string())
        return pc.utf8_trim_whitespace(columns.texts(batch.column(field), faults, field, required=False))

    def _event_keys(self, batch: pa.RecordBatch, faults: Faults) -> np.ndarray:
        if self.spec.events.event_id is None:
            return np.zeros(batch.num_rows, np.int64)
        text = self._optional_text(batch, self.spec.events.event_id, faults)
        return np.where(columns.mask(pc.equal(text, "")), 0, columns.text_keys(text))

    def _declared_types(self, batch: pa.RecordBatch, file: str, rows: np.ndarray) -> np.ndarray:
        """int8 ``[n]``: the ItemType that a row states; −1 where it states none."""
        field = self.spec.events.item_type
        if field is None:
            return np.full(batch.num_rows, -1, np.int8)
        text = pc.utf8_lower(self._optional_text(batch, field, Faults(rows)))
        code = pc.fill_null(pc.index_in(text, pa.array(_ITEM_TYPES)), -1).to_numpy(zero_copy_only=False)
        unknown = np.flatnonzero((code < 0) & columns.mask(pc.not_equal(text, "")))
        if len(unknown):
            at = int(unknown[0])
            raise DataError(
                f"{file} row {rows[at]}: {field}={text[at].as_py()!r}: expected one of {list(_ITEM_TYPES)}; "
                "there is no embedder for another type"
            )
        return code.astype(np.int8)

    def _items(
        self, batch: pa.RecordBatch, has_own_text: np.ndarray, faults: Faults
    ) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """External ids, keys int64 ``[n]``, and positions of the items' query texts, int64 ``[n]``, −1 for none.

        Rows that are queries with a text of their own need no item.
        """
        field = self.spec.events.item
        of_items = Faults(np.arange(batch.num_rows))
        item_id, item_key = columns.ids(batch.column(field), self.item_id_kind, of_items, field)
        faults.adopt(of_items, except_where=has_own_text)
        if self.items is None:
            return item_id, item_key, np.full(batch.num_rows, -1)
        known, query = self.items.look_up(item_key)
        faults.mark(~known & ~has_own_text, Reason.UNKNOWN_ITEM, field, item_id)
        return item_id, item_key, query

    def _query_texts(self, own_text: pa.StringArray, item_query: np.ndarray) -> pa.StringArray:
        """An event's own query text, or else the text of the query item that it refers to, or else ''."""
        if self.items is None or not len(self.items.query_text):
            return own_text
        of_item = self.items.query_text.take(pa.array(item_query, mask=item_query < 0))
        return pc.if_else(pc.equal(own_text, ""), pc.fill_null(of_item, ""), own_text)
