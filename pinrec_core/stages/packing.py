"""What passes between the stages as one tensor of bytes: a request for the generator, and a plan for the retrieval.

Each tensor of each request costs a stage an allocation in shared memory, a copy and an object, whatever its size. So
the parts of a request that travel together are packed: a header of fixed size, then the arrays as they are in memory,
the widest elements first, so that all are aligned. Little-endian and versioned. Decoding makes views, no copies.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from pinrec_core.deadline import Deadline
from pinrec_core.errors import InvalidRequestError
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.history import DTYPES, History
from pinrec_core.request import Request

VERSION = 4
_REQUEST = struct.Struct("<BxHIIiqqdqdh6x")
"""Version, O, T, F, N, time, seed, deadline (moment, clock), strength (NaN: none), surface; a multiple of 8 bytes."""
_PLAN = struct.Struct("<B7xII")  # version, M, D

Shape = tuple[np.dtype, tuple[int, ...]]


def encode_request(request: Request) -> np.ndarray:
    """uint8 ``[G]``: what the stages behind ``signal_fetch`` need of a request. Item keys and seen items stay behind.

    The outcomes of the history travel too: the generator does not read them, but they say what the user did with an
    item, which ranking reads and masks. The budget is rounded to FP32.
    """
    history = request.history
    T, F = history.feature.shape
    deadline = request.deadline
    header = (
        VERSION, len(request.budget), T, F, request.num_items, request.time, request.seed,
        deadline.moment, deadline.clock, math.nan if request.strength is None else request.strength, request.surface,
    )  # fmt: skip
    columns = {
        "timestamp": history.timestamp,
        "budget": request.budget,
        "scale": history.scale,
        "surface": history.surface,
        "outcome": history.outcome,
        "item_type": history.item_type,
        "feature": history.feature,
    }
    return _encode(_REQUEST, header, _request_columns(len(request.budget), T, F), columns)


def decode_request(data: np.ndarray) -> Request:
    """The request in uint8 ``[G]``, with item keys of 0, which the generator does not read.

    Raises ``InvalidRequestError`` for bytes that ``encode_request`` did not make.
    """
    _, O, T, F, num_items, time, seed, moment, clock, strength, surface = _header(_REQUEST, data, "packed_request")
    columns = _decode(_REQUEST, data, _request_columns(O, T, F), f"packed_request of T={T}, F={F}, O={O}")
    budget = columns.pop("budget")
    return Request(
        history=History(item_key=np.zeros(T, DTYPES["item_key"]), **columns),
        surface=surface,
        time=time,
        seed=seed,
        budget=budget.astype(np.float64),
        num_items=num_items,
        strength=None if math.isnan(strength) else strength,
        deadline=Deadline(moment, clock),
    )


def encode_plan(plan: RetrievalPlan) -> np.ndarray:
    """uint8 ``[G]``.

    The embeddings are FP32, because the index needs it and M is small. Rounding to FP16 would magnify the tiny
    differences between batch sizes, so that items with almost equal scores would change places.
    """
    M, D = plan.embedding.shape
    columns = {"embedding": plan.embedding, "outcome": plan.outcome, "quota": plan.quota}
    return _encode(_PLAN, (VERSION, M, D), _plan_columns(M, D), columns)


def decode_plan(data: np.ndarray) -> RetrievalPlan:
    """The plan in uint8 ``[G]``. Raises ``InvalidRequestError`` for bytes that ``encode_plan`` did not make."""
    _, M, D = _header(_PLAN, data, "retrieval_plan")
    return RetrievalPlan(**_decode(_PLAN, data, _plan_columns(M, D), f"retrieval_plan of M={M}, D={D}"))


def _request_columns(O: int, T: int, F: int) -> dict[str, Shape]:
    shapes = {
        "timestamp": (T,), "budget": (O,), "scale": (T,), "surface": (T,), "outcome": (T,), "item_type": (T,),
        "feature": (T, F),
    }  # fmt: skip
    return {name: (DTYPES.get(name, np.dtype(np.float32)), shape) for name, shape in shapes.items()}


def _plan_columns(M: int, D: int) -> dict[str, Shape]:
    whole = np.dtype(np.int32)
    return {"embedding": (np.dtype(np.float32), (M, D)), "outcome": (whole, (M,)), "quota": (whole, (M,))}


def _encode(
    header: struct.Struct, values: tuple[float, ...], shapes: Mapping[str, Shape], columns: Mapping[str, np.ndarray]
) -> np.ndarray:
    data = np.empty(_size(header, shapes), np.uint8)
    header.pack_into(data.data, 0, *values)
    for name, into in _views(header, data, shapes).items():
        into[:] = columns[name]
    return data


def _header(header: struct.Struct, data: np.ndarray, name: str) -> tuple[Any, ...]:
    if len(data) < header.size:
        raise InvalidRequestError(f"{name} has {len(data)} bytes: expected at least {header.size}")
    values = header.unpack_from(data.data)
    if values[0] != VERSION:
        raise InvalidRequestError(f"{name} has version {values[0]}: expected {VERSION}")
    return values


def _decode(header: struct.Struct, data: np.ndarray, shapes: Mapping[str, Shape], name: str) -> dict[str, np.ndarray]:
    expected = _size(header, shapes)
    if len(data) != expected:
        raise InvalidRequestError(f"{name} has {len(data)} bytes: expected {expected}")
    return _views(header, data, shapes)


def _size(header: struct.Struct, shapes: Mapping[str, Shape]) -> int:
    return header.size + sum(_bytes(shape) for shape in shapes.values())


def _views(header: struct.Struct, data: np.ndarray, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    views = {}
    offset = header.size
    for name, (dtype, shape) in shapes.items():
        end = offset + _bytes((dtype, shape))
        views[name] = data[offset:end].view(dtype).reshape(shape)
        offset = end
    return views


def _bytes(shape: Shape) -> int:
    dtype, sizes = shape
    count = 1
    for size in sizes:
        count *= size  # Python's numbers do not overflow, whatever a header claims
    return count * dtype.itemsize
