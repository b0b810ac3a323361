"""The commands ``pinrec synth`` and ``pinrec prepare``, without the Spark job."""

from __future__ import annotations

import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from pinrec_cli.prepare import prepare
from pinrec_cli.synth import synth
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ConfigError, DataError, InvalidRequestError

app = typer.Typer()
app.command()(prepare)
app.command()(synth)


def call(*arguments: object) -> dict:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def test_synth_then_prepare(tmp_path):
    log, dataset = tmp_path / "log", tmp_path / "dataset"
    written = call("synth", "--users", 40, "--items", 150, "--events", 2000, "--string-ids", "--out", log, "--json")
    assert written["events"] == 2000
    report = call("prepare", "--config", log / "dataset.toml", "--out", dataset, "--skip-signals", "--json")
    assert report["rows_read"] == report["valid_events"] == 2000
    assert report["user_id_kind"] == "string"
    assert report["dataset"] == str(dataset)
    assert DatasetManifest.load(dataset).name == "log"


def test_a_batch_cannot_end_after_now(tmp_path):
    with pytest.raises(InvalidRequestError, match="--end-time=99999999999: expected at most"):
        call("prepare", "--preset", "ml100k", "--data", tmp_path, "--out", tmp_path / "out", "--end-time", 99999999999)


def test_what_is_no_master_is_refused_before_the_log_is_looked_for(tmp_path):
    with pytest.raises(ConfigError, match="--master='loca': expected a Spark master such as"):
        call("prepare", "--preset", "ml100k", "--data", tmp_path, "--out", tmp_path / "out", "--master", "loca")


def test_a_batch_that_would_end_before_the_log_begins_leaves_the_old_dataset(tmp_path):
    log, dataset = tmp_path / "log", tmp_path / "dataset"
    call("synth", "--users", 40, "--items", 150, "--events", 2000, "--out", log, "--json")
    prepare = ("prepare", "--config", log / "dataset.toml", "--out", dataset, "--json")
    call(*prepare, "--skip-signals")
    (dataset / "signals").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="end_time=5: expected above"):
        call(*prepare, "--overwrite", "--end-time", 5)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_next_step_is_one_that_works(tmp_path):
    call("synth", "--users", 40, "--items", 150, "--events", 2000, "--out", tmp_path, "--json")
    result = CliRunner().invoke(
        app, ["prepare", "--config", str(tmp_path / "dataset.toml"), "--out", str(tmp_path / "out"), "--skip-signals"]
    )
    said = " ".join(result.stderr.split())
    assert said.endswith("to train on it, prepare it without --skip-signals")
    assert "pinrec train" not in said


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_events_that_are_dated_after_now_are_warned_of(tmp_path, arguments):
    now = int(time.time())
    rows = {"user": [1, 1, 2], "item": [1, 2, 3], "action": ["buy"] * 3, "time": [now - 60, now + 7200, now + 7200]}
    pq.write_table(pa.table(rows), tmp_path / "events.parquet")
    (tmp_path / "shop.toml").write_text(
        'name = "shop"\noutcomes = ["buy"]\n[events]\nfiles = ["events.parquet"]\n'
        'user = "user"\nitem = "item"\naction = "action"\ntimestamp = "time"\n'
    )
    config, out = str(tmp_path / "shop.toml"), str(tmp_path / "out")
    result = CliRunner().invoke(app, ["prepare", "--config", config, "--out", out, "--skip-signals", *arguments])
    assert "warning: 2 events are dated after now; they are kept in the event files and left out of" in result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["valid_events"], report["events_ahead"]) == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --config FILE and --preset NAME"),
        (["--preset", "ml100k"], "--data: expected the folder of the log"),
        (["--preset", "ml100k", "--config", "x.toml"], "expected one of --config FILE and --preset NAME"),
        (["--config", "absent.toml"], "expected the mapping of a log"),
    ],
)
def test_a_call_without_a_mapping_says_what_to_give(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        call("prepare", *arguments, "--out", tmp_path / "out")
