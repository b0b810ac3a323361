"""Turns requests and events into messages of tensors, and such messages into answers. Touches no network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tritonclient.grpc import InferResult
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse, ModelMetadataResponse
from tritonclient.utils import serialize_byte_tensor, triton_to_np_dtype

from pinrec_client.contract import ENSEMBLE, EVENTS, FORGET_USER, ID, INGEST, REQUEST, RESPONSE, STORED
from pinrec_client.errors import ServerError, require
from pinrec_client.types import Event, ItemId, Recommendations, RecommendedItem, RecommendRequest, UserId


def encode_request(request: RecommendRequest, request_id: str = "") -> ModelInferRequest:
    """The message of one request; its tensors are [1, n]. A field that is None is not sent."""
    values: dict[str, Sequence | np.ndarray | None] = {
        "user_id": [request.user_id],
        "num_items": _one(request.num_items),
        "surface": _one(request.surface),
        "query": _one(request.query),
        "query_embedding": request.query_embedding,
        "exclude_seen": _one(request.exclude_seen),
        "request_time": _one(request.request_time),
        "seed": _one(request.seed),
        "strength": _one(request.strength),
    }
    if request.budget is not None:
        values["budget"] = list(request.budget.values())
        values["budget_outcome"] = list(request.budget)
    given = {name: value for name, value in values.items() if value is not None}
    return _message(ENSEMBLE, REQUEST, given, request_id)


def set_timeout(message: ModelInferRequest, seconds: float) -> None:
    """Tell the service how long its answer is waited for: it does not begin what nobody waits for any more."""
    message.parameters["timeout"].int64_param = int(seconds * 1e6)  # Triton's own name, in microseconds


def decode_recommendations(response: ModelInferResponse, request_id: str) -> Recommendations:
    """The answer, in rank order. Raises ``ServerError`` when tensors are missing or their lengths disagree."""
    result = InferResult(response)
    columns = {name: _column(result, name, request_id) for name in RESPONSE}
    item_ids, scores, outcomes = (columns[name] for name in ("item_id", "score", "outcome"))
    release, history = columns["release"], columns["history_source"]
    if not (len(item_ids) == len(scores) == len(outcomes) and len(release) == 1 and len(history) == 2):
        lengths = {name: len(column) for name, column in columns.items()}
        raise ServerError(f"response lengths={lengths}: expected N, N, N, 1 and 2", request_id=request_id)
    return Recommendations(
        release=release[0],
        history_source=history[0],
        history_unavailable=history[1],
        items=tuple(
            RecommendedItem(item_id=item_id, score=score, outcome=outcome, rank=rank)
            for rank, (item_id, score, outcome) in enumerate(zip(item_ids, scores, outcomes, strict=True), start=1)
        ),
    )


def no_item_beside(events: Sequence[Event]) -> ItemId | None:
    """The value that is sent as the item of a search, which has none: 0 where item ids are integers, else "".

    One tensor holds the item ids of all events, so this value has the type of the others. Returns None when no event
    has an item; the server's metadata then tells the type (``no_item_of``).
    """
    item_id = next((event.item_id for event in events if event.item_id is not None), None)
    return None if item_id is None else _no_item(isinstance(item_id, str))


def no_item_of(metadata: ModelMetadataResponse) -> ItemId:
    """The value that is sent as the item of a search, by the metadata of the ingest model."""
    return _no_item(any(t.name == "event_item_id" and t.datatype == "BYTES" for t in metadata.inputs))


def encode_events(events: Sequence[Event], no_item: ItemId, request_id: str = "") -> ModelInferRequest:
    """The message of Q events; its tensors are [1, Q]. ``no_item`` is sent as the item of events that have none."""
    values: dict[str, Sequence | np.ndarray] = {
        "event_id": [event.event_id for event in events],
        "event_user_id": [event.user_id for event in events],
        "event_item_id": [no_item if event.item_id is None else event.item_id for event in events],
        "event_action": [event.action for event in events],
        "event_timestamp": [event.timestamp for event in events],
        "event_surface": [event.surface for event in events],
        "event_query": [event.query or "" for event in events],
    }
    return _message(INGEST, EVENTS, values, request_id)


def encode_forget(user_id: UserId, at: int, no_item: ItemId, request_id: str = "") -> ModelInferRequest:
    """The message that asks to forget a user, up to and including ``at``."""
    values: dict[str, Sequence | np.ndarray] = {
        "event_id": [FORGET_USER],
        "event_user_id": [user_id],
        "event_item_id": [no_item],
        "event_action": [FORGET_USER],
        "event_timestamp": [at],
        "event_surface": [""],
        "event_query": [""],
    }
    return _message(INGEST, EVENTS, values, request_id)


def decode_stored(response: ModelInferResponse, request_id: str) -> int:
    """The number of the events that the store now holds. Raises ``ServerError`` when the tensor is missing."""
    (name,) = STORED
    return int(_column(InferResult(response), name, request_id)[0])


def _no_item(text: bool) -> ItemId:
    return "" if text else 0


def _one(value: object) -> list | None:
    return None if value is None else [value]


def _message(
    model: str, types: dict[str, str], values: dict[str, Sequence | np.ndarray], request_id: str
) -> ModelInferRequest:
    """A message to a model. Raises ``InvalidRequestError`` when a tensor mixes integer ids and text ids."""
    message = ModelInferRequest(model_name=model, id=request_id)
    for name, column in values.items():
        dtype = types[name]
        if dtype == ID:
            texts = [isinstance(value, str) for value in column]
            require(all(texts) or not any(texts), name, list(column)[:8], "ids of one type, all integers or all texts")
            dtype = "BYTES" if texts[0] else "INT64"
        if dtype == "BYTES":
            array = np.asarray([value.encode("utf-8") for value in column], np.object_)
            content = serialize_byte_tensor(array).item()
        else:
            array = np.asarray(column, triton_to_np_dtype(dtype))
            content = array.tobytes()
        message.inputs.add(name=name, datatype=dtype, shape=[1, len(array)])
        message.raw_input_contents.append(content)
    return message


def _column(result: InferResult, name: str, request_id: str) -> list:
    """The values of an output [1, n]: Python numbers, or text for BYTES."""
    array = result.as_numpy(name)
    if array is None or array.ndim != 2 or len(array) != 1:
        got = "nothing" if array is None else list(array.shape)
        raise ServerError(f"{name} shape={got}: expected [1, n]", request_id=request_id)
    values = array[0].tolist()
    return [value.decode("utf-8") for value in values] if array.dtype == np.object_ else values
