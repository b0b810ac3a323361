"""A stage that runs on another server: each request of a batch is a request there, and all are sent at once.

There they meet in a batch again, because Triton gathers what arrives together. A stage whose requests can be put into
one has a form of its own, which ``stage_process`` is given instead. This module knows nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from pinrec_core.errors import PinRecError
from pinrec_core.stages.base import StageParameters, Tensors
from pinrec_serving.remote_model import RemoteModel


class RemoteStage:
    """Passes requests on to ``model`` as they are. Raises ``ServerError`` when that does not serve this release now."""

    def __init__(self, model: RemoteModel, parameters: StageParameters) -> None:
        self._model = model
        model.check_ready()

    def parse(self, tensors: Tensors) -> Tensors:
        return tensors  # what is wrong with it is said over there, of this request alone

    def run(self, rows: Sequence[Tensors]) -> Sequence[Tensors | PinRecError]:
        return self._model.each(rows)
