"""``pinrec forget-user``, and the message that the client sends for it."""

from __future__ import annotations

import json
import shlex
from functools import partial

from google.protobuf.message import Message
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelMetadataRequest
from typer.testing import CliRunner, Result

from pinrec_cli.main import app
from pinrec_core.errors import InvalidRequestError
from tests.client.scripted import ScriptedService, metadata, stored


def _pinrec(line: str) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, shlex.split(line))


def _answered(types: Message, question: Message) -> Message:
    return types if isinstance(question, ModelMetadataRequest) else stored(1)


def test_a_user_is_forgotten_by_one_message(scripted: ScriptedService):
    """The same, whether the ids of users and items are integers or texts, which the service is asked for."""
    for datatype, user, sent in (("INT64", "17", "17"), ("BYTES", "17 --string-ids", "17"), ("BYTES", "böb", "böb")):
        types = metadata(datatype)
        scripted.answer = partial(_answered, types)
        result = _pinrec(f"forget-user {user} --at 1000 --json --url {scripted.url}")
        assert result.exit_code == 0, result.output
        user_id = int(sent) if datatype == "INT64" else sent
        assert json.loads(result.stdout) == {"user_id": user_id, "forgotten_at": 1000}
        message = scripted.received[-1].question
        assert isinstance(message, ModelInferRequest)
        assert message.model_name == "signal_ingest"
        contents = dict(zip([t.name for t in message.inputs], message.raw_input_contents, strict=True))
        assert contents["event_action"][4:] == b"forget_user"
        assert int.from_bytes(contents["event_timestamp"], "little") == 1000
        item = next(t for t in message.inputs if t.name == "event_item_id")
        assert (item.datatype, contents["event_item_id"].strip(b"\0")) == (datatype, b"")
    refused = _pinrec(f"forget-user 17 --at 0 --url {scripted.url}")
    assert type(refused.exception) is InvalidRequestError
    assert "at=0" in str(refused.exception)
