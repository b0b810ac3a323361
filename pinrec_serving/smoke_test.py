"""One request to a release that is loaded and does not serve yet: does it answer, and as it should?

The request is that of a user whom nobody knows, so that it needs nothing of the signals. It passes every stage. It is
repeated a few times where it fails: the first request of a stage on another server may miss its deadline.
"""

from __future__ import annotations

import time

import numpy as np
import tritonclient.grpc as triton

from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ServerError
from pinrec_core.ids import IdKind
from pinrec_serving.model_control import ModelControl, input_tensor

ITEMS = 10
TIMEOUT = 30.0  # seconds; the stages have warmed up, but a machine that serves at the same time is busy
ATTEMPTS = 5
PAUSE = 0.2  # seconds between two attempts
NOBODY = {IdKind.INT: np.array([[-(1 << 62)]], np.int64), IdKind.STRING: np.array([[b"smoke test"]], object)}


def check_answer(control: ModelControl, ensemble: str, release_id: str, dataset: DatasetManifest) -> None:
    """Raises ``ServerError`` unless ``ensemble`` answers with distinct items of ``release_id``, as many as asked."""
    items = min(ITEMS, dataset.num_items)
    user = NOBODY[dataset.user_id_kind]
    inputs = [input_tensor("user_id", user), input_tensor("num_items", np.array([[items]], np.int32))]
    answer = _answer(control, ensemble, inputs)
    release, item_id = answer.as_numpy("release"), answer.as_numpy("item_id")
    if release.tolist() != [[release_id.encode()]]:
        raise ServerError(f"{ensemble} answered with release={release.tolist()}: expected {release_id!r}")
    if len(set(item_id.ravel().tolist())) != items:
        raise ServerError(f"{ensemble} answered with item_id={item_id.tolist()}: expected {items} distinct items")


def _answer(control: ModelControl, ensemble: str, inputs: list[triton.InferInput]) -> triton.InferResult:
    end = time.monotonic() + TIMEOUT
    for _ in range(ATTEMPTS - 1):
        try:
            return control.infer(ensemble, inputs, timeout=end - time.monotonic())
        except ServerError:
            if time.monotonic() + PAUSE > end:
                raise
            time.sleep(PAUSE)
    return control.infer(ensemble, inputs, timeout=end - time.monotonic())
