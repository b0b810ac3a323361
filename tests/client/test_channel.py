"""Channels with TLS: the service shows its certificate, and where it asks for one, the client does as well."""

from __future__ import annotations

from pathlib import Path

import pytest
from pinrec_client import InvalidRequestError, Tls, UnavailableError

from tests.client.conftest import Connect, tls_service
from tests.client.scripted import recommendations

PATIENCE = 30.0  # seconds


def test_the_service_shows_its_certificate(certificates: Path, connect: Connect):
    with tls_service(certificates, mutual=False) as service:
        service.answer = lambda _: recommendations()
        tls = Tls(root_certificates=str(certificates / "cert.pem"))
        assert connect(service.url, timeout=PATIENCE, tls=tls).recommend(17).items
        with pytest.raises(UnavailableError):
            connect(service.url, timeout=PATIENCE, tls=Tls()).recommend(17)  # not among gRPC's own
        assert len(service.received) == 1


def test_the_client_shows_its_certificate(certificates: Path, connect: Connect):
    certificate, key = (str(certificates / name) for name in ("cert.pem", "key.pem"))
    with tls_service(certificates, mutual=True) as service:
        service.answer = lambda _: recommendations()
        mutual = Tls(root_certificates=certificate, private_key=key, certificate_chain=certificate)
        assert connect(service.url, timeout=PATIENCE, tls=mutual).recommend(17).items
        with pytest.raises(UnavailableError):
            connect(service.url, timeout=PATIENCE, tls=Tls(root_certificates=certificate)).recommend(17)
        assert len(service.received) == 1


def test_a_file_that_does_not_exist_is_named():
    with pytest.raises(InvalidRequestError, match=r"root_certificates='nowhere\.pem'"):
        Tls(root_certificates="nowhere.pem")


@pytest.mark.parametrize("field", ["private_key", "certificate_chain"])
def test_a_certificate_and_its_key_come_together(certificates: Path, field: str):
    with pytest.raises(InvalidRequestError, match="together"):
        Tls(**{field: str(certificates / "key.pem")})
