"""``pinrec recommend`` and ``pinrec log-event`` over the client, against the real Triton with the stand-in."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pytest
from pinrec_client.__main__ import main
from typer.testing import CliRunner, Result

from pinrec_cli.main import app
from pinrec_core.dataset.catalogue import write_catalogue
from pinrec_core.errors import DataError, InvalidRequestError, PinRecError, ServerError
from tests.client.conftest import StandIn, tls_service
from tests.client.scripted import ScriptedService, recommendations, stored


def _pinrec(line: str, **environment: str) -> Result:
    return CliRunner(env={"COLUMNS": "120", **environment}).invoke(app, shlex.split(line))


@pytest.fixture
def titles(tmp_path: Path) -> Path:
    """A catalogue that holds two of the three items which the stand-in recommends."""
    write_catalogue(
        tmp_path,
        item_key=np.array([2, 1]),
        item_id=pa.array([2, 1]),
        title=pa.array(["the [second]", "the first"]),
        categories=pa.array(["", ""]),
        feature=np.zeros((2, 4), np.int8),
        scale=np.zeros(2, np.float32),
    )
    return tmp_path


@pytest.mark.triton
def test_a_table_with_titles(integer_service: StandIn, titles: Path):
    result = _pinrec(f"recommend 17 18 --url {integer_service.url} --titles {titles}")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert sum("user 17" in line or "user 18" in line for line in lines) == 2
    assert any("the first" in line and "like" in line and "1.0000" in line for line in lines)
    assert any("the [second]" in line and "save" in line for line in lines)
    assert "release {" in result.stdout


@pytest.mark.triton
def test_every_option_reaches_the_service(integer_service: StandIn):
    result = _pinrec(
        f"recommend 17 --url {integer_service.url} --json --num-items 2 --budget like=0.75,save=0.25 --surface home "
        "--query 'red shoes' --exclude-seen --request-time 99 --seed 3"
    )
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(result.stdout)
    received = json.loads(answer["release"])
    del received["request_id"], received["attempts"]
    assert received == {
        "user_id": [17],
        "num_items": [2],
        "budget": [0.75, 0.25],
        "budget_outcome": ["like", "save"],
        "surface": ["home"],
        "query": ["red shoes"],
        "exclude_seen": [True],
        "request_time": [99],
        "seed": [3],
    }
    assert [item["item_id"] for item in answer["items"]] == [1, 2]


@pytest.mark.triton
def test_string_ids(string_service: StandIn):
    result = _pinrec(f"recommend 17 --string-ids --json --url {string_service.url}")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["user_id"] == "17"
    event = _pinrec(f"log-event 17 like --item 5 --string-ids --json --url {string_service.url}")
    assert json.loads(event.stdout)["stored"] == 1


@pytest.mark.triton
def test_an_event_keeps_the_id_it_is_given(integer_service: StandIn):
    result = _pinrec(f"log-event 17 like --item 5 --event-id e1 --json --url {integer_service.url}")
    assert json.loads(result.stdout) == {"event_id": "e1", "stored": 1}


@pytest.mark.triton
@pytest.mark.parametrize(
    ("surface", "error_class"),
    [("error:INVALID_ARG", InvalidRequestError), ("error:UNAVAILABLE", ServerError), ("error:INTERNAL", PinRecError)],
)
def test_a_failure_keeps_its_kind(integer_service: StandIn, surface: str, error_class: type[PinRecError]):
    result = _pinrec(f"recommend 17 --surface {surface} --url {integer_service.url}")
    assert type(result.exception) is error_class
    assert "user_id=-1: expected something else" in str(result.exception)


@pytest.mark.triton
def test_a_slow_answer_is_told_from_a_missing_service(integer_service: StandIn):
    slow = _pinrec(f"recommend 17 --surface wait:1 --timeout 0.2 --url {integer_service.url}")
    assert isinstance(slow.exception, ServerError)
    assert "--timeout" in str(slow.exception)


@pytest.mark.parametrize("line", ["recommend 17", "log-event 17 like --item 5"])
def test_the_key_comes_from_the_environment(scripted: ScriptedService, line: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PINREC_API_KEY", raising=False)
    scripted.answer = lambda _: grpc.StatusCode.UNAUTHENTICATED
    for arguments in (f"{line} --url {scripted.url}", f"{line} --url 127.0.0.1:1,{scripted.url}"):
        result = _pinrec(arguments, PINREC_API_KEY="s3cret")
        assert type(result.exception) is PinRecError
        assert "PINREC_API_KEY" in str(result.exception)
        assert "s3cret" not in str(result.exception) + result.output
        assert scripted.received[-1].metadata["authorization"] == "Bearer s3cret"
    _pinrec(f"{line} --url {scripted.url}")
    assert "authorization" not in scripted.received[-1].metadata


def test_what_an_answer_is_based_on_is_shown(scripted: ScriptedService, capsys: pytest.CaptureFixture[str]):
    history = {"history_source": np.array([[b"batch", b"realtime"]], object)}
    scripted.answer = lambda _: recommendations(2, **history)
    line = f"recommend 17 --url {scripted.url}"
    assert "history: batch (realtime unavailable)" in " ".join(_pinrec(line).stdout.split())
    (shown,) = json.loads(_pinrec(f"{line} --json").stdout)
    assert (shown["history_source"], shown["history_unavailable"]) == ("batch", "realtime")
    assert main(shlex.split(line)) == 0
    assert "user 17, release r1, history: batch (realtime unavailable)" in capsys.readouterr().out
    scripted.answer = lambda _: recommendations(2)
    assert "history: both" in (both := _pinrec(line).stdout)
    assert "unavailable" not in both


def test_nobody_listens():
    result = _pinrec("recommend 17 --url 127.0.0.1:1")
    assert isinstance(result.exception, ServerError)
    assert "pinrec serve" in str(result.exception)


@pytest.mark.parametrize(
    ("line", "error_class", "field"),
    [
        ("recommend 17 --budget like", InvalidRequestError, "budget="),
        ("recommend 17 --num-items 0", InvalidRequestError, "num_items=0"),
        ("recommend 17 --titles /nowhere", DataError, "/nowhere"),
        ("recommend 17 --timeout 0", InvalidRequestError, "timeout=0"),
        ("log-event 17 like", InvalidRequestError, "item_id, query"),
    ],
)
def test_what_is_malformed_is_refused_before_it_is_sent(line: str, error_class: type[PinRecError], field: str):
    result = _pinrec(f"{line} --url 127.0.0.1:1")
    assert type(result.exception) is error_class
    assert field in str(result.exception)


@pytest.mark.parametrize("line", ["recommend 17", "log-event 17 like --item 5"])
def test_tls_with_a_certificate_of_the_client(
    certificates: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PINREC_API_KEY", raising=False)
    certificate, key = certificates / "cert.pem", certificates / "key.pem"
    with tls_service(certificates, mutual=True) as service:
        service.answer = lambda question: stored(1) if question.model_name == "signal_ingest" else recommendations()
        line += f" --url {service.url}"
        files = f"--root-certificates {certificate} --certificate {certificate} --key {key}"
        given = _pinrec(f"{line} {files}", PINREC_API_KEY="s3cret")
        assert given.exit_code == 0, given.output
        assert service.received[-1].metadata["authorization"] == "Bearer s3cret"
        from_environment = _pinrec(
            line,
            PINREC_ROOT_CERTIFICATES=str(certificate),
            PINREC_CLIENT_CERTIFICATE=str(certificate),
            PINREC_CLIENT_KEY=str(key),
        )
        assert from_environment.exit_code == 0, from_environment.output
        both = tmp_path / "both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        in_one_file = _pinrec(f"{line} --root-certificates {certificate} --certificate {both}")
        assert in_one_file.exit_code == 0, in_one_file.output
        assert len(service.received) == 3
        for too_little in ("", "--tls", f"--root-certificates {certificate}"):
            refused = _pinrec(f"{line} {too_little}")
            assert isinstance(refused.exception, ServerError)
            assert "--tls" in str(refused.exception)
        assert len(service.received) == 3


@pytest.mark.parametrize("line", ["recommend 17", "log-event 17 like --item 5"])
@pytest.mark.parametrize(
    ("option", "field"),
    [
        ("--root-certificates /nowhere", "root_certificates='/nowhere'"),
        ("--certificate /nowhere", "certificate_chain='/nowhere'"),
        ("--key CERTIFICATE", "private_key"),
    ],
)
def test_files_of_tls_are_checked(certificates: Path, line: str, option: str, field: str):
    option = option.replace("CERTIFICATE", str(certificates / "cert.pem"))
    result = _pinrec(f"{line} {option} --url 127.0.0.1:1")
    assert type(result.exception) is InvalidRequestError
    assert field in str(result.exception)
