"""Converts one raw column to typed values and finds the rows that do not have that type. It is vectorised.

Every function marks the rows that it cannot use in ``faults`` and puts a harmless value there. So callers work on whole
columns and drop the marked rows once, at the end. This module does not know what a column means.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pinrec_core import limits
from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind, string_keys
from pinrec_core.preparation.quarantine import Faults, Reason
from pinrec_core.preparation.schema import TIME_UNITS

_WHOLE = r"^[+-]?[0-9]{1,19}(\.0*)?$"
_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_NON_FINITE = r"(?i)^[+-]?(nan|inf|infinity)$"
_WHOLE_SHARE = 0.99  # text ids are taken for integers when at least this share of them are whole numbers
_INT64_MAX = (1 << 63) - 1
_FAR_FUTURE = float(1 << 62)  # seconds; stands for any time that int64 cannot hold


def texts(column: pa.Array, faults: Faults, field: str, *, required: bool) -> pa.StringArray:
    """The cells as text, '' for null. Marks cells that are not UTF-8 and, if ``required``, blank ones."""
    column = _plain(column)
    if _is_bytes(column.type):
        decoded = _decode(column, faults, field)
    elif pt.is_floating(column.type) or pt.is_integer(column.type) or pt.is_boolean(column.type):
        decoded = pc.cast(column, pa.string())
    else:
        raise DataError(f"{field} is {column.type}: expected text or numbers")
    filled = pc.fill_null(decoded, "")
    if required:
        faults.mark(mask(pc.equal(pc.utf8_trim_whitespace(filled), "")), Reason.MISSING_VALUE, field, decoded)
    return filled


def whole_numbers(column: pa.Array, faults: Faults, field: str) -> np.ndarray:
    """The cells as int64 ``[n]``. Missing, non-finite and fractional ones and those beyond int64 are marked and 0."""
    column = _plain(column)
    faults.mark(mask(pc.is_null(column)), Reason.MISSING_VALUE, field, column)
    if pt.is_integer(column.type):
        if column.type == pa.uint64():
            beyond = mask(pc.greater(column, pa.scalar(_INT64_MAX, pa.uint64())))
            faults.mark(beyond, Reason.OUT_OF_RANGE, field, column)
            column = pc.if_else(pa.array(~beyond), column, pa.scalar(0, pa.uint64()))
        return pc.fill_null(pc.cast(column, pa.int64()), 0).to_numpy(zero_copy_only=False)
    if pt.is_floating(column.type):
        return _whole_floats(column, faults, field)
    if _is_bytes(column.type):
        return _whole_texts(pc.utf8_trim_whitespace(texts(column, faults, field, required=True)), faults, field)
    raise DataError(f"{field} is {column.type}: expected whole numbers")


def seconds(column: pa.Array, unit: str, faults: Faults, field: str) -> np.ndarray:
    """The cells as Unix seconds, rounded down, int64 ``[n]``. Marks cells that are missing, non-finite or not a time.

    Marked cells become 0. ``unit`` does not matter for columns of an Arrow timestamp or date type. The caller has to
    check the range.
    """
    column = _plain(column)
    faults.mark(mask(pc.is_null(column)), Reason.MISSING_VALUE, field, column)
    if pt.is_timestamp(column.type) or pt.is_date(column.type):
        micros = pc.cast(pc.cast(column, pa.timestamp("us"), safe=False), pa.int64())
        return np.floor_divide(pc.fill_null(micros, 0).to_numpy(zero_copy_only=False), 10**6)
    if pt.is_integer(column.type):
        return np.floor_divide(whole_numbers(column, faults, field), TIME_UNITS[unit])
    if pt.is_floating(column.type):
        return _float_seconds(column.to_numpy(zero_copy_only=False), column, unit, faults, field)
    if not _is_bytes(column.type):
        raise DataError(f"{field} is {column.type}: expected a time in {unit}")
    text = pc.utf8_trim_whitespace(texts(column, faults, field, required=True))
    if unit == "iso8601":
        return _iso_seconds(text, faults, field)
    faults.mark(mask(pc.match_substring_regex(text, _NON_FINITE)), Reason.NON_FINITE, field, text)
    number = pc.match_substring_regex(text, _NUMBER)
    faults.mark(~mask(number), Reason.WRONG_TYPE, field, text)
    values = pc.cast(pc.if_else(number, text, "0"), pa.float64()).to_numpy(zero_copy_only=False)
    return _float_seconds(values, text, unit, faults, field)


def infer_id_kind(column: pa.Array) -> IdKind:
    """INT for columns of numbers, and for text columns in which 99% of the cells are whole numbers without leading
    zeros; the other cells may be faults. STRING for any other text column."""
    column = _plain(column)
    if pt.is_integer(column.type) or pt.is_floating(column.type):
        return IdKind.INT
    if not _is_bytes(column.type):
        raise DataError(f"ids are {column.type}: expected whole numbers or text")
    text = pc.utf8_trim_whitespace(texts(column, Faults(np.arange(len(column))), "id", required=False))
    text = text.filter(pc.not_equal(text, ""))
    whole = mask(pc.match_substring_regex(text, r"^[+-]?(0|[1-9][0-9]{0,18})$"))
    return IdKind.INT if len(whole) and whole.mean() >= _WHOLE_SHARE else IdKind.STRING


def ids(column: pa.Array, kind: IdKind, faults: Faults, field: str) -> tuple[pa.Array, np.ndarray]:
    """External ids (an int64 or string array) and their keys, int64 ``[n]``. Marks ids that cannot be used."""
    if kind is IdKind.INT:
        keys = whole_numbers(column, faults, field)
        return pa.array(keys), keys
    if pt.is_floating(_plain(column).type):
        raise DataError(f"{field} is {column.type}: expected text or integers for string ids")
    external = texts(column, faults, field, required=True)
    faults.mark(mask(pc.greater(pc.binary_length(external), limits.ID.most)), Reason.ID_TOO_LONG, field, external)
    return external, text_keys(external)


def text_keys(texts: pa.StringArray) -> np.ndarray:
    """``string_keys`` of a column, int64 ``[n]``. Each distinct text is hashed once."""
    encoded = texts.dictionary_encode()
    distinct = string_keys(encoded.dictionary.to_pylist())
    return distinct[encoded.indices.to_numpy()] if len(distinct) else np.empty(0, np.int64)


def mask(condition: pa.BooleanArray) -> np.ndarray:
    """A nullable condition as a boolean array. Null counts as false."""
    return pc.fill_null(condition, False).to_numpy(zero_copy_only=False)


def _whole_floats(column: pa.Array, faults: Faults, field: str) -> np.ndarray:
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    finite = np.isfinite(values)
    faults.mark(~finite, Reason.NON_FINITE, field, column)
    values = np.where(finite, values, 0.0)
    faults.mark(values != np.floor(values), Reason.WRONG_TYPE, field, column)
    exact = np.abs(values) <= 2.0**53  # beyond this, neighbouring ids are the same float
    faults.mark(~exact, Reason.OUT_OF_RANGE, field, column)
    return np.where(exact, values, 0.0).astype(np.int64)


def _whole_texts(text: pa.StringArray, faults: Faults, field: str) -> np.ndarray:
    faults.mark(mask(pc.match_substring_regex(text, _NON_FINITE)), Reason.NON_FINITE, field, text)
    whole = pc.match_substring_regex(text, _WHOLE)
    faults.mark(~mask(whole), Reason.WRONG_TYPE, field, text)
    digits = pc.replace_substring_regex(pc.if_else(whole, text, "0"), r"^[+-]|\.0*$", "")
    magnitude = pc.cast(digits, pa.uint64()).to_numpy(zero_copy_only=False)  # 19 digits fit
    faults.mark(magnitude > _INT64_MAX, Reason.OUT_OF_RANGE, field, text)
    value = np.where(magnitude > _INT64_MAX, 0, magnitude).astype(np.int64)
    return np.where(mask(pc.starts_with(text, "-")), -value, value)


def _float_seconds(values: np.ndarray, shown: pa.Array, unit: str, faults: Faults, field: str) -> np.ndarray:
    finite = np.isfinite(values)
    faults.mark(~finite, Reason.NON_FINITE, field, shown)
    scaled = np.floor(np.where(finite, values, 0.0) / TIME_UNITS[unit])
    return np.clip(scaled, -_FAR_FUTURE, _FAR_FUTURE).astype(np.int64)


def _iso_seconds(text: pa.StringArray, faults: Faults, field: str) -> np.ndarray:
    """ISO 8601 text as Unix seconds. A time without a zone is UTC."""
    try:
        return np.floor_divide(pc.cast(pc.cast(text, pa.timestamp("us")), pa.int64()).to_numpy(), 10**6)
    except pa.ArrowInvalid:
        pass  # Some cell has a zone or is no time. Below, each cell is parsed on its own.
    values = np.zeros(len(text), np.int64)
    wrong = np.zeros(len(text), bool)
    for row, cell in enumerate(text.to_pylist()):
        try:
            moment = datetime.fromisoformat(cell)
            values[row] = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() // 1)
        except (ValueError, OverflowError):
            wrong[row] = True
    faults.mark(wrong, Reason.WRONG_TYPE, field, text)
    return values


def _decode(column: pa.Array, faults: Faults, field: str) -> pa.StringArray:
    """Bytes or text as validated UTF-8. Cells that are not UTF-8 are marked and become null."""
    raw = pc.cast(column, pa.binary())
    try:
        return pc.cast(raw, pa.string())
    except pa.ArrowInvalid:
        pass  # Some cell is not UTF-8. Below, each cell is decoded on its own to find it.
    cells = raw.to_pylist()
    invalid = np.zeros(len(cells), bool)
    for row, cell in enumerate(cells):
        try:
            _ = cell is None or cell.decode("utf-8")
        except UnicodeDecodeError:
            invalid[row] = True
    faults.mark(invalid, Reason.INVALID_UTF8, field, raw)
    return pc.cast(pc.if_else(pa.array(invalid), pa.scalar(None, pa.binary()), raw), pa.string())


def _plain(column: pa.Array) -> pa.Array:
    """The values behind a dictionary-encoded column. A column that holds only nulls has no type and becomes text."""
    if pt.is_null(column.type):
        return pc.cast(column, pa.string())
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _is_bytes(type_: pa.DataType) -> bool:
    return (
        pt.is_string(type_) or pt.is_large_string(type_) or pt.is_binary(type_) or pt.is_large_binary(type_)
        or pt.is_string_view(type_) or pt.is_binary_view(type_)
    )  # fmt: skip
