"""Channels with TLS: the service shows its certificate, and where it asks for one, the client does as well."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
from pinrec_client import InvalidRequestError, Tls, UnavailableError

from tests.client.conftest import Connect
from tests.client.scripted import ScriptedService, recommendations, scripted_service

PATIENCE = 30.0  # seconds

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``key.pem`` and a certificate for it, ``cert.pem``, that vouches for itself."""
    folder = tmp_path_factory.mktemp("certificates")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


def _credentials(folder: Path, *, ask_for_one: bool) -> grpc.ServerCredentials:
    key, certificate = ((folder / name).read_bytes() for name in ("key.pem", "cert.pem"))
    roots = certificate if ask_for_one else None
    return grpc.ssl_server_credentials([(key, certificate)], roots, require_client_auth=ask_for_one)


def _by_name(service: ScriptedService) -> str:
    return service.url.replace("127.0.0.1", "localhost")


def test_the_service_shows_its_certificate(certificates: Path, connect: Connect):
    with scripted_service(credentials=_credentials(certificates, ask_for_one=False)) as service:
        service.answer = lambda _: recommendations()
        tls = Tls(root_certificates=str(certificates / "cert.pem"))
        assert connect(_by_name(service), timeout=PATIENCE, tls=tls).recommend(17).items
        with pytest.raises(UnavailableError):
            connect(_by_name(service), timeout=PATIENCE, tls=Tls()).recommend(17)  # not among gRPC's own
        assert len(service.received) == 1


def test_the_client_shows_its_certificate(certificates: Path, connect: Connect):
    certificate, key = (str(certificates / name) for name in ("cert.pem", "key.pem"))
    with scripted_service(credentials=_credentials(certificates, ask_for_one=True)) as service:
        service.answer = lambda _: recommendations()
        mutual = Tls(root_certificates=certificate, private_key=key, certificate_chain=certificate)
        assert connect(_by_name(service), timeout=PATIENCE, tls=mutual).recommend(17).items
        with pytest.raises(UnavailableError):
            connect(_by_name(service), timeout=PATIENCE, tls=Tls(root_certificates=certificate)).recommend(17)
        assert len(service.received) == 1


def test_a_file_that_does_not_exist_is_named():
    with pytest.raises(InvalidRequestError, match=r"root_certificates='nowhere\.pem'"):
        Tls(root_certificates="nowhere.pem")
