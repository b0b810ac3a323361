"""The tensor contract: every tensor that crosses a stage boundary, once. Each ``config.pbtxt`` is tested against it.

A tensor keeps one name from the stage that makes it to the last stage that reads it, so the ensemble needs no
renaming. Dimensions are letters of ``DIMENSIONS``; the batch dimension is Triton's own and is not written. A request
holds one user: its batch dimension is 1, and the dynamic batcher groups requests of different T (ragged batches).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DIMENSIONS: dict[str, str] = {
    "B": "requests in a batch, or users in a training batch",
    "T": "history positions, oldest first",
    "S": "decode steps, the prefill's included",
    "O": "outcomes",
    "W": "offsets per step in generation; items per window in training",
    "E": "generated embeddings of one request: S · O · W",
    "M": "embeddings kept by compression, with a quota above zero",
    "D": "width of an item representation",
    "H": "hidden width of the decoder",
    "L": "decoder layers",
    "F": "width of a content feature",
    "I": "width of an ID embedding",
    "K": "hash functions of the ID tables",
    "V": "items in the catalogue",
    "C": "candidates (columns) of a sampled softmax",
    "N": "items to return",
    "X": "items the user has already seen",
    "P": "positions that a K/V cache has room for",
    "R": "random negatives of a training batch",
    "Z": "target items of one evaluation user",
    "Q": "events of one ingest request",
}
"""The one table of dimension letters. Code, docstrings and tests use these and no others."""


class DType(StrEnum):
    """Tensor element types, by their name in the inference protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    BYTES = "BYTES"
    USER_ID = "USER_ID"  # INT64, or BYTES where the release's user ids are strings
    ITEM_ID = "ITEM_ID"  # likewise for items


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, element type, dimensions (letters, or a fixed size) and whether a caller may omit it."""

    name: str
    dtype: DType
    dims: tuple[str | int, ...]
    optional: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions as Triton writes them: −1 for a letter."""
        return tuple(-1 if isinstance(d, str) else d for d in self.dims)

    @property
    def ragged(self) -> bool:
        """Whether requests of one batch may differ in shape."""
        return any(isinstance(d, str) for d in self.dims)


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One model of the repository: its inputs and outputs."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


REQUEST = (
    TensorSpec("user_id", DType.USER_ID, (1,)),
    TensorSpec("num_items", DType.INT32, (1,), optional=True),
    TensorSpec("surface", DType.BYTES, (1,), optional=True),
    TensorSpec("budget", DType.FP32, ("O",), optional=True),
    TensorSpec("budget_outcome", DType.BYTES, ("O",), optional=True),
    TensorSpec("query", DType.BYTES, (1,), optional=True),
    TensorSpec("query_embedding", DType.FP32, ("F",), optional=True),
    TensorSpec("exclude_seen", DType.BOOL, (1,), optional=True),
    TensorSpec("request_time", DType.INT64, (1,), optional=True),
    TensorSpec("seed", DType.INT64, (1,), optional=True),
)
"""What a caller sends. ``budget_outcome`` names the weights of ``budget``, which are in the release's order without."""

BUDGET_TOLERANCE = 2e-3
"""How far the weights of a budget may be from summing to 1, inclusive: three of them written with three decimals
(.333 each) are off by .001. What is left is normalised away."""

HISTORY_KEY = TensorSpec("history_item_key", DType.INT64, ("T",))
HISTORY_TYPE = TensorSpec("history_item_type", DType.UINT8, ("T",))

HISTORY_CONTEXT = (
    TensorSpec("history_surface", DType.INT16, ("T",)),
    TensorSpec("history_timestamp", DType.INT64, ("T",)),
    TensorSpec("history_feature", DType.INT8, ("T", "F")),
    TensorSpec("history_scale", DType.FP32, ("T",)),
)

RESOLVED = (
    TensorSpec("resolved_surface", DType.INT16, (1,)),
    TensorSpec("resolved_time", DType.INT64, (1,)),
    TensorSpec("resolved_budget", DType.FP32, ("O",)),
    TensorSpec("resolved_num_items", DType.INT32, (1,)),
    TensorSpec("resolved_seed", DType.INT64, (1,)),
)
"""The request after validation, every default filled in: the stages behind ``signal_fetch`` have no optional input."""

SEEN = TensorSpec("seen_item_key", DType.INT64, ("X",))

ID_EMBEDDING = TensorSpec("history_id_embedding", DType.FP16, ("T", "I"))
"""Of every key, a query's too: the generator ignores those, which is cheaper than sending the types along."""

GENERATED = (
    # FP32: the index needs it, M is small after compression, and rounding to FP16 would magnify the last-bit
    # differences between batch sizes until near-equal items changed places.
    TensorSpec("embedding", DType.FP32, ("M", "D")),
    TensorSpec("embedding_outcome", DType.INT32, ("M",)),
    TensorSpec("embedding_quota", DType.INT32, ("M",)),
)

RESPONSE = (
    TensorSpec("item_id", DType.ITEM_ID, ("N",)),
    TensorSpec("score", DType.FP32, ("N",)),
    TensorSpec("outcome", DType.BYTES, ("N",)),
    TensorSpec("release", DType.BYTES, (1,)),
)

SIGNAL_FETCH = StageSpec("signal_fetch", REQUEST, (HISTORY_KEY, HISTORY_TYPE, *HISTORY_CONTEXT, *RESOLVED, SEEN))
ID_EMBEDDER = StageSpec("id_embedder", (HISTORY_KEY,), (ID_EMBEDDING,))
GENERATOR = StageSpec("generator", (HISTORY_TYPE, *HISTORY_CONTEXT, ID_EMBEDDING, *RESOLVED), GENERATED)
FAISS_RETRIEVAL = StageSpec("faiss_retrieval", (*GENERATED, SEEN), RESPONSE)

PIPELINE = (SIGNAL_FETCH, ID_EMBEDDER, GENERATOR, FAISS_RETRIEVAL)
"""The stages of the ensemble, in the order a request passes them."""

ENSEMBLE = StageSpec("pinrec", REQUEST, RESPONSE)

SIGNAL_INGEST = StageSpec(
    "signal_ingest",
    (
        TensorSpec("event_id", DType.BYTES, ("Q",)),
        TensorSpec("event_user_id", DType.USER_ID, ("Q",)),
        TensorSpec("event_item_id", DType.ITEM_ID, ("Q",)),
        TensorSpec("event_action", DType.BYTES, ("Q",)),
        TensorSpec("event_timestamp", DType.INT64, ("Q",)),
        TensorSpec("event_surface", DType.BYTES, ("Q",)),
        TensorSpec("event_query", DType.BYTES, ("Q",)),
    ),
    (TensorSpec("stored", DType.INT32, (1,)),),
)
"""The write path, outside the ensemble: it outlives releases. A query event has a text and no item (0 or ``""``)."""
