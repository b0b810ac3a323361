"""Clients of both kinds, and the services that they talk to.

``integer_service`` and ``string_service`` are the real Triton with ``stand_in.py`` behind the service's tensors. They
are started once per session. ``scripted`` answers in this process, with answers that the stand-in would not give.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc
from pinrec_client import AsyncPinRecClient, PinRecClient

from pinrec_core.contract import ENSEMBLE, SIGNAL_INGEST, DType, StageSpec, TensorSpec
from pinrec_serving.installation import free_ports
from tests.client.scripted import ScriptedService, recommendations, scripted_service

STAND_IN = Path(__file__).with_name("stand_in.py")
STAGE = "stand_in"

Connect = Callable[..., Any]


class Awaited:
    """The asyncio client with its methods awaited, so that one test body serves both clients."""

    def __init__(self, url: str | Sequence[str], **arguments: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._open(url, arguments))

    @staticmethod
    async def _open(url: str | Sequence[str], arguments: dict[str, Any]) -> AsyncPinRecClient:
        return AsyncPinRecClient(url, **arguments)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._loop.run_until_complete(method(*args, **kwargs))

    def __enter__(self) -> Awaited:
        self._loop.run_until_complete(self._client.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run_until_complete(self._client.__aexit__(*error))

    def shut(self) -> None:
        self.close()
        self._loop.close()


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Opens a client of either kind with the given arguments; closes them all afterwards."""
    opened: list[Any] = []

    def connect(url: str | Sequence[str], **arguments: Any) -> Any:
        kind = PinRecClient if request.param == "blocking" else Awaited
        opened.append(kind(url, **arguments))
        return opened[-1]

    yield connect
    for client in opened:
        client.shut() if isinstance(client, Awaited) else client.close()


@pytest.fixture
def scripted() -> Iterator[ScriptedService]:
    """A service whose every answer the test decides."""
    with scripted_service() as service:
        yield service


@pytest.fixture
def pair() -> Iterator[tuple[ScriptedService, ScriptedService]]:
    """Two replicas, which answer with two items and one item unless the test tells them otherwise."""
    with scripted_service() as first, scripted_service() as second:
        first.answer = lambda _: recommendations(2)
        second.answer = lambda _: recommendations(1)
        yield first, second


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``key.pem`` and a certificate for it, ``cert.pem``, that vouches for itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    folder = tmp_path_factory.mktemp("certificates")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


@contextmanager
def tls_service(certificates: Path, *, mutual: bool) -> Iterator[ScriptedService]:
    """A service that shows the certificate and, if ``mutual``, asks its clients for one."""
    key, certificate = ((certificates / name).read_bytes() for name in ("key.pem", "cert.pem"))
    roots = certificate if mutual else None
    credentials = grpc.ssl_server_credentials([(key, certificate)], roots, require_client_auth=mutual)
    with scripted_service(credentials=credentials) as service:
        service.url = service.url.replace("127.0.0.1", "localhost")  # as the certificate has it
        yield service


@dataclass(frozen=True)
class StandIn:
    """A running stand-in service. ``admin`` loads and unloads its models."""

    url: str
    admin: tritonclient.grpc.InferenceServerClient
    admin_headers: dict[str, str]

    def load(self, model: str) -> None:
        self.admin.load_model(model, headers=self.admin_headers)

    def unload(self, model: str) -> None:
        self.admin.unload_model(model, headers=self.admin_headers)


@pytest.fixture(scope="session")
def integer_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A service whose user and item ids are INT64."""
    yield from _service(tmp_path_factory.mktemp("integer_ids"), "TYPE_INT64")


@pytest.fixture(scope="session")
def string_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A service whose user and item ids are BYTES."""
    yield from _service(tmp_path_factory.mktemp("string_ids"), "TYPE_STRING")


def _service(folder: Path, id_type: str) -> Iterator[StandIn]:
    # Imported here: the tests that need no server also run where the server's requirements are not installed.
    from pinrec_serving.runtime import Endpoint, TritonServer

    grpc_port, http_port, metrics_port = free_ports(3)
    endpoint = Endpoint(grpc_port=grpc_port, http_port=http_port, metrics_port=metrics_port)
    with TritonServer(endpoint=endpoint, log_folder=folder) as server:
        _write_model(server.repository, STAGE, ENSEMBLE, id_type)
        _write_model(server.repository, SIGNAL_INGEST.name, SIGNAL_INGEST, id_type)
        _write_ensemble(server.repository, id_type)
        admin = tritonclient.grpc.InferenceServerClient(endpoint.grpc)
        service = StandIn(url=endpoint.grpc, admin=admin, admin_headers=server.admin_headers)
        service.load(ENSEMBLE.name)
        service.load(SIGNAL_INGEST.name)
        yield service
        admin.close()


def _write_model(repository: Path, name: str, spec: StageSpec, id_type: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    shutil.copy(STAND_IN, repository / name / "1" / "model.py")
    text = f'name: "{name}"\nbackend: "python"\ndynamic_batching {{}}\n' + _tensors(spec, id_type)
    (repository / name / "config.pbtxt").write_text(text)


def _write_ensemble(repository: Path, id_type: str) -> None:
    (repository / ENSEMBLE.name / "1").mkdir(parents=True)
    maps = [f'input_map {{ key: "{t.name}" value: "{t.name}" }}' for t in ENSEMBLE.inputs]
    maps += [f'output_map {{ key: "{t.name}" value: "{t.name}" }}' for t in ENSEMBLE.outputs]
    step = f'ensemble_scheduling {{ step [ {{ model_name: "{STAGE}" model_version: -1 {" ".join(maps)} }} ] }}\n'
    text = f'name: "{ENSEMBLE.name}"\nplatform: "ensemble"\n' + _tensors(ENSEMBLE, id_type) + step
    (repository / ENSEMBLE.name / "config.pbtxt").write_text(text)


def _tensors(spec: StageSpec, id_type: str) -> str:
    def tensor(t: TensorSpec) -> str:
        types = {DType.USER_ID: id_type, DType.ITEM_ID: id_type, DType.BYTES: "TYPE_STRING"}
        optional = " optional: true" if t.optional else ""
        return (
            f'{{ name: "{t.name}" data_type: {types.get(t.dtype, f"TYPE_{t.dtype}")} dims: {list(t.shape)}{optional} }}'
        )

    inputs, outputs = (", ".join(map(tensor, side)) for side in (spec.inputs, spec.outputs))
    return f"max_batch_size: 8\ninput [ {inputs} ]\noutput [ {outputs} ]\n"
