"""The commands of ``pinrec signals``, on snapshots whose histories hold the number of their snapshot."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.signals.publish_kills import end_of, publish_numbered, serving_number
from pinrec_cli.signals import app
from pinrec_core.errors import ConfigError, DataError, InvalidRequestError, StoreError
from pinrec_core.ids import IdKind, user_store_key
from signal_service.event_stores import open_writer
from signal_service.snapshots import list_snapshots, snapshot_folder
from tests.signal_service.builders import EVENTS, make_manifest, write_prepared


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result.stdout


def called(*arguments: object) -> dict:
    return json.loads(call(*arguments, "--json"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        publish_numbered(tmp_path / "signals", number)
    return tmp_path


def names(dataset: Path) -> list[str]:
    return [one.name for one in list_snapshots(dataset / "signals")]


def test_list(dataset):
    listed = called("list", dataset)
    assert listed == called("list", dataset / "signals"), "the folder of signals alone is known where it serves"
    third, second, first = names(dataset)
    assert listed["current"] == third
    newest, *_, oldest = listed["snapshots"]
    assert newest | {"bytes": 0, "created": ""} == {
        "snapshot": third, "current": True, "in_use": False, "problem": None, "end_time": end_of(3), "start_time": None,
        "num_users": 64, "num_interactions": 768, "created": "", "parent": None, "replaces": second, "bytes": 0,
    }  # fmt: skip
    assert oldest["snapshot"] == first


def test_list_prints_a_table_that_says_what_is_damaged(dataset):
    third, second, first = names(dataset)
    (snapshot_folder(dataset / "signals", second) / "dataset.json").write_text("{}")
    (snapshot_folder(dataset / "signals", first) / "snapshot.json").unlink()
    table = call("list", dataset)
    lines = {line.split()[0]: line for line in table.splitlines() if line.startswith(("2023", " 2023"))}
    assert "current" in lines[third]
    assert "64" in lines[third]
    assert "damaged" in lines[second]
    assert "unfinished" in lines[first]
    assert "2 bytes, expected" in table


def test_list_where_nothing_is_current(tmp_path):
    (tmp_path / "signals").mkdir()
    assert "no snapshot is current" in call("list", tmp_path)
    with pytest.raises(DataError, match="expected a folder of batch signals"):
        call("list", tmp_path / "nothing")


def test_rollback(dataset):
    third, second, first = names(dataset)
    assert called("rollback", dataset) == {"snapshot": second, "before": third}
    assert serving_number(dataset / "signals") == 2
    assert call("rollback", dataset, "--to", first) == f"current: {first}, before: {second}\n"
    with pytest.raises(DataError, match="snapshot='none': expected one of"):
        call("rollback", dataset, "--to", "none")


def test_prune(dataset):
    third, second, first = names(dataset)
    (dataset / "signals" / "snapshots" / f".{first}-building-0123456789ab").mkdir()
    done = called("prune", dataset, "--keep", 2)
    assert done["bytes"] > 0
    assert (done["removed"], done["in_use"]) == ([first], [])
    assert done["left_overs"] == [f"snapshots/.{first}-building-0123456789ab"]
    call("rollback", dataset)
    assert "0.0 MiB in 0 snapshots" in call("prune", dataset, "--keep", 1)
    assert names(dataset) == [third, second]


def test_publish_refuses_what_cannot_work_before_it_starts(dataset, tmp_path):
    with pytest.raises(DataError, match="expected a prepared dataset's manifest"):
        call("publish", tmp_path / "nothing")
    make_manifest(IdKind.INT, EVENTS).save(dataset)
    with pytest.raises(InvalidRequestError, match="--end-time=99999999999: expected at most"):
        call("publish", dataset, "--end-time", 99999999999)
    with pytest.raises(ConfigError, match="--master='loca': expected a Spark master such as"):
        call("publish", dataset, "--master", "loca")
    with pytest.raises(DataError, match="expected a part of a prepared dataset"):
        call("publish", dataset)
    assert len(names(dataset)) == 3
    assert serving_number(dataset / "signals") == 3


@pytest.mark.spark
def test_publish(tmp_path):
    dataset = write_prepared(tmp_path / "dataset", EVENTS)
    made = called("publish", dataset, "--end-time", 1050, "--lookback-days", 1, "--master", "local[1]")
    assert (made["snapshot"], made["before"], made["removed"]) == ("19700101T001730-1", None, [])
    assert made["users"] == 4
    said = call("publish", dataset, "--keep", 1, "--master", "local[1]")
    assert "current: 19700101T001740-1, before: 19700101T001730-1" in said
    assert "removed 19700101T001730-1" in said


@pytest.mark.spark
def test_publish_leaves_out_who_asked_the_real_time_store_to_be_forgotten(tmp_path):
    dataset = write_prepared(tmp_path / "dataset", EVENTS)
    with closing(open_writer(dataset / "signals" / "realtime")) as store:
        store.forget(user_store_key(42, IdKind.INT), at=10_000)
    assert called("publish", dataset, "--master", "local[1]")["users"] == 3
    with pytest.raises(StoreError, match="expected a real-time store"):
        call("publish", dataset, "--master", "local[1]", "--realtime", tmp_path / "nowhere")
    assert len(names(dataset)) == 1


@pytest.mark.parametrize("command", ["publish", "list", "rollback", "prune"])
def test_the_help_shows_an_example(command):
    assert f"pinrec signals {command} data/" in call(command, "--help")
