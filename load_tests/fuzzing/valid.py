"""Right requests for every model that can be called: the ensemble, the write path, and each stage on its own.

What a stage is sent in the ensemble is what the stage before it answers. So the stages are asked once, in order, for
some users, and their answers are the inputs that are broken afterwards.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from random import Random

from load_tests import server_statistics
from load_tests.fuzzing.messages import Caller, Case, Tensor
from load_tests.workload import Workload
from pinrec_core.contract import FAISS_RETRIEVAL, GENERATOR, ID_EMBEDDER, PIPELINE, SIGNAL_INGEST
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ServerError
from pinrec_core.ids import IdKind

ENSEMBLE = "pinrec"
KNOWN_REQUESTS = 12  # users whose tensors between the stages are taken


class ValidRequests:
    """Draws valid requests for ``models``: those of ``url``, and the ``stages``, where Triton listens at ``stage_url``.

    Raises ``DataError`` for a dataset that is none, and ``ServerError`` for a
    service that does not answer a valid request."""

    def __init__(self, dataset: Path, url: str, deadline: float, *, stage_url: str | None = None) -> None:
        self.workload = Workload.load(dataset)
        self.manifest = DatasetManifest.load(dataset)
        self.request_time = self.manifest.last_timestamp
        """Of the requests whose answers have to stay the same: what is written now does not count for them."""
        loaded = sorted(server_statistics.read(url, deadline))
        stages = {} if stage_url is None else _stages(loaded)
        caller = Caller(stage_url or url, deadline)
        self._known: dict[str, list[tuple[Tensor, ...]]] = {}
        try:
            for number in range(KNOWN_REQUESTS if len(stages) == len(PIPELINE) else 0):
                self._walk(caller, stages, Random(number))
        finally:
            caller.close()
        self.stages = tuple(stages.values())
        self.models = (ENSEMBLE, *(name for name in loaded if name == SIGNAL_INGEST.name), *self.stages)
        self._stage_of = {name: stage for stage, name in stages.items()}

    def draw(self, random: Random) -> Case:
        model = random.choice(self.models)
        stage = self._stage_of.get(model, model)
        if stage in self._known:
            return Case(model=model, tensors=random.choice(self._known[stage]))
        return Case(model=model, tensors=self._events(random) if stage == SIGNAL_INGEST.name else self.request(random))

    def request(self, random: Random) -> tuple[Tensor, ...]:
        """A recommendation request with some of its optional fields."""
        w = self.workload
        user = w.visit(random).user_id if random.random() < 0.8 else w.cold_user(random)
        tensors = [self._ids("user_id", w.user_id_kind, [user])]
        if random.random() < 0.7:
            tensors.append(Tensor.of("num_items", "INT32", [random.choice((1, 10, 100))]))
        if random.random() < 0.4:
            tensors.append(Tensor.of("surface", "BYTES", [random.choice(("", *w.surfaces)).encode()]))
        if random.random() < 0.5:
            budget = w.budget(random)
            tensors.append(Tensor.of("budget", "FP32", list(budget.values())))
            tensors.append(Tensor.of("budget_outcome", "BYTES", [name.encode() for name in budget]))
        if random.random() < 0.3:
            tensors.append(Tensor.of("query", "BYTES", [random.choice(w.texts or ["red shoes"]).encode()]))
        elif random.random() < 0.2:
            vector = [random.gauss(0, 0.1) for _ in range(self.manifest.feature_width)]
            tensors.append(Tensor.of("query_embedding", "FP32", vector))
        if random.random() < 0.4:
            tensors.append(Tensor.of("exclude_seen", "BOOL", [random.random() < 0.5]))
        if random.random() < 0.5:
            tensors.append(Tensor.of("request_time", "INT64", [self.request_time]))
        if random.random() < 0.4:
            tensors.append(Tensor.of("seed", "INT64", [random.getrandbits(63)]))
        return tuple(tensors)

    def _events(self, random: Random) -> tuple[Tensor, ...]:
        """Events of users whom no log holds, so that nobody's history changes."""
        w, m, Q = self.workload, self.manifest, random.randint(1, 4)
        return (
            Tensor.of("event_id", "BYTES", [uuid.UUID(int=random.getrandbits(128)).hex.encode() for _ in range(Q)]),
            self._ids("event_user_id", w.user_id_kind, [w.cold_user(random) for _ in range(Q)]),
            self._ids("event_item_id", m.item_id_kind, [random.choice(w.item_ids) for _ in range(Q)]),
            Tensor.of("event_action", "BYTES", [random.choice(w.outcomes).encode() for _ in range(Q)]),
            Tensor.of("event_timestamp", "INT64", [int(time.time()) - random.randrange(1000) for _ in range(Q)]),
            Tensor.of("event_surface", "BYTES", [random.choice(m.surfaces).encode() for _ in range(Q)]),
            Tensor.of("event_query", "BYTES", [b""] * Q),
        )

    def _ids(self, name: str, kind: IdKind, ids: Sequence[int | str]) -> Tensor:
        if kind is IdKind.STRING:
            return Tensor.of(name, "BYTES", [str(i).encode() for i in ids])
        return Tensor.of(name, "INT64", ids)

    def _walk(self, caller: Caller, stages: dict[str, str], random: Random) -> None:
        """Pass one request through the stages, and keep what each of them is sent."""
        made = {tensor.name: tensor for tensor in self.request(random)}
        for spec in PIPELINE:
            sent = tuple(made[t.name] for t in spec.inputs if t.name in made)
            if spec in (ID_EMBEDDER, GENERATOR, FAISS_RETRIEVAL):
                self._known.setdefault(spec.name, []).append(sent)
            answer = caller.send(Case(model=stages[spec.name], tensors=sent).encode())
            if answer.code != "OK":
                raise ServerError(f"{stages[spec.name]}: {answer.code} {answer.message}: expected a valid answer")
            made |= {tensor.name: tensor for tensor in answer.tensors}


def _stages(loaded: Sequence[str]) -> dict[str, str]:
    """Stage → the name of its model in the newest release of ``loaded``, the names of all models in order."""
    stages = {}
    for spec in PIPELINE:
        names = [name for name in loaded if name.startswith(f"{spec.name}__")]
        if names:
            stages[spec.name] = names[-1]
    return stages
