"""The tensor contract: the tensors that pass between the stages of serving. Each ``config.pbtxt`` is tested against it.

A tensor has the same name in the stage that computes it and in all stages that read it, so the ensemble renames
nothing. Dimensions are letters of ``DIMENSIONS``. The batch dimension is left out, because Triton adds it. A request is
for one user, so its batch dimension is 1; the dynamic batcher groups requests of different T (ragged batches).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DIMENSIONS: dict[str, str] = {
    "B": "requests in a batch, or users in a training batch",
    "T": "history positions, oldest first",
    "S": "decode steps, including the prefill",
    "O": "outcomes",
    "W": "offsets per step in generation; items per window in training",
    "E": "generated embeddings of one request: S · O · W",
    "M": "embeddings that compression keeps and whose quota is above zero",
    "D": "width of an item representation",
    "G": "bytes of what is packed into one tensor",
    "H": "hidden width of the decoder",
    "L": "decoder layers",
    "F": "width of a content feature",
    "I": "width of an ID embedding",
    "K": "hash functions of the ID tables",
    "V": "items in the catalogue",
    "C": "candidates (columns) of a sampled softmax",
    "N": "items to return",
    "X": "items the user has already seen",
    "P": "positions for which a K/V cache has memory",
    "R": "random negatives of a training batch",
    "Z": "target items of one evaluation user",
    "Q": "events of one ingest request",
}
"""The letters for dimensions. Code, docstrings and tests use no others."""


class DType(StrEnum):
    """Element types of tensors, named as in the inference protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    BYTES = "BYTES"
    USER_ID = "USER_ID"  # INT64, or BYTES if the user ids of the release are strings
    ITEM_ID = "ITEM_ID"  # the same for its item ids


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor: its name, its element type, its dimensions (letters or sizes), and whether a caller may omit it."""

    name: str
    dtype: DType
    dims: tuple[str | int, ...]
    optional: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions as Triton writes them, with −1 for a letter."""
        return tuple(-1 if isinstance(d, str) else d for d in self.dims)

    @property
    def ragged(self) -> bool:
        """Whether the shapes of a batch's requests may differ."""
        return any(isinstance(d, str) for d in self.dims)


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A model of the model repository: its inputs and outputs."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    takes_timeout: bool = False
    """Whether the stage gets ``TIMEOUT_US`` beside its inputs."""


TIMEOUT_US = "timeout_us"
"""Not a tensor of a model, but the field ``timeout`` of a request: int64 ``[1]``, the microseconds after which its
caller stops waiting. It is absent where the caller does not say."""

REQUEST_ID = "request_id"
TRACEPARENT = "traceparent"
"""Not tensors either, but texts of BYTES ``[1]``: the id that a caller gave its request, and the trace to which that
belongs, as W3C Trace Context writes it. A stage on another server gets them beside its inputs, where there are any."""

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
    TensorSpec("strength", DType.FP32, (1,), optional=True),
)
"""What a caller sends. ``budget_outcome`` names the outcomes of the weights in ``budget``. Without it, the weights are
in the order of the release's outcomes."""

BUDGET_TOLERANCE = 2e-3
"""The largest difference between the sum of a budget's weights and 1. Three weights with three decimals (.333 each) are
off by .001. The weights are then normalised."""

MAX_STRENGTH = 4
"""Of an outcome's steering, of which 1 is as trained. Further away lies what nothing was trained on."""

HISTORY_KEY = TensorSpec("history_item_key", DType.INT64, ("T",))
PACKED_REQUEST = TensorSpec("packed_request", DType.UINT8, ("G",))
"""The history and the request after validation, with all defaults filled in: stages after ``signal_fetch`` have no
optional inputs. ``pinrec_core.stages.packing`` says which bytes these are, here and below."""

SEEN = TensorSpec("seen_item_key", DType.INT64, ("X",))

HISTORY_SOURCE = TensorSpec("history_source", DType.BYTES, (2,))
"""What an answer is based on: where the interactions of the history come from (one of ``SOURCES``), and which part of
the signals could not be read for it (one of ``PARTS``)."""

SOURCES = ("batch", "realtime", "both", "none")
"""Where the interactions of a history come from. ``none`` is a cold start: nothing is known of the user."""

PARTS = ("", "realtime", "batch", "both")
"""Which part of the signals could not be read: none, the real-time store, the batch view, or both of them. A part that
a service does not have, as without a real-time store, is not missing."""

ID_EMBEDDING = TensorSpec("history_id_embedding", DType.FP16, ("T", "I"))
"""The embeddings of all keys, those of queries included. The generator ignores the latter: that is cheaper than sending
the item types to the ID embedder."""

RETRIEVAL_PLAN = TensorSpec("retrieval_plan", DType.UINT8, ("G",))
"""The embeddings that are looked up, each with its outcome and its quota, packed."""

RECOMMENDED = (
    TensorSpec("item_id", DType.ITEM_ID, ("N",)),
    TensorSpec("score", DType.FP32, ("N",)),
    TensorSpec("outcome", DType.BYTES, ("N",)),
    TensorSpec("release", DType.BYTES, (1,)),
)
RESPONSE = (*RECOMMENDED, HISTORY_SOURCE)
"""What a caller gets: the items of the last stage, and from the first one what is known of the user."""

SIGNAL_FETCH = StageSpec(
    "signal_fetch", REQUEST, (HISTORY_KEY, PACKED_REQUEST, SEEN, HISTORY_SOURCE), takes_timeout=True
)
ID_EMBEDDER = StageSpec("id_embedder", (HISTORY_KEY,), (ID_EMBEDDING,))
GENERATOR = StageSpec("generator", (PACKED_REQUEST, ID_EMBEDDING), (RETRIEVAL_PLAN,))
FAISS_RETRIEVAL = StageSpec("faiss_retrieval", (RETRIEVAL_PLAN, SEEN), RECOMMENDED)

PIPELINE = (SIGNAL_FETCH, ID_EMBEDDER, GENERATOR, FAISS_RETRIEVAL)
"""The stages of the ensemble, in the order in which a request passes through them."""

ENSEMBLE = StageSpec("pinrec", REQUEST, RESPONSE)

FORGET_USER = "forget_user"
"""The action of an event that is none: its user asks to be forgotten, up to and including its time. No dataset has an
action of this name."""

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
"""The write path. It is not part of the ensemble, because it is independent of releases. The event of a query has
a text and no item: its item id is 0 or ``""``. That of ``FORGET_USER`` has neither."""
