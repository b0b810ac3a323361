"""Running a study: what is trained and judged, what stays as it is, and what a failure or a kill leaves behind.

Only the test of a killed run starts processes; the others run the same pieces in this process (``workers=0``).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.quality.__main__ import app
from benchmarks.quality.results import load_all
from benchmarks.quality.schedule import Piece, run_pieces
from benchmarks.quality.study import load_study
from benchmarks.quality.work_folder import turn
from pinrec_core.errors import ConfigError, DataError
from tests.benchmarks.quality.small_study import STUDY, TRAINING, run_here

ROOT = Path(__file__).parents[3]


def test_a_finished_study_is_not_touched_again(place, datasets):
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (place / "work").rglob("*") if path.is_file()}

    before, figures = state(), (place / "figures" / "yelp.json").read_bytes()
    assert run_here(place, datasets) == {}
    assert state() == before
    assert (place / "figures" / "yelp.json").read_bytes() == figures


def test_every_run_has_what_it_was_asked_for(place, result):
    study = load_study(str(place / "yelp.toml"))
    for run in study.runs.values():
        seeds = result.runs[run.name]["seeds"]
        assert set(seeds) == {str(seed) for seed in run.seeds}
        assert all(set(seed["evaluations"]) == set(run.evaluations) for seed in seeds.values())
    trained = json.loads((place / "work" / "yelp" / "mt_oc-0" / "training" / "run.json").read_text("utf-8"))
    assert Path(trained["id_tables"]).parent.name == "tables-0"
    assert trained["training"]["held_out_last"] == 1
    assert [p["offsets_per_step"] for p in result.seeds("mt_oc", "steps")[0]["points"]] == [1, 2, 4]
    assert all(seed["embeddings"] == 6 for run in ("uc", "oc", "mt_oc") for seed in result.seeds(run, "held_out"))


def test_a_changed_study_is_refused_until_told_to_overwrite(place, datasets, tmp_path):
    subprocess.run(["cp", "-r", f"{place}/.", str(tmp_path)], check=True)
    study = tmp_path / "yelp.toml"
    study.write_text(STUDY.replace("k = 5", "k = 4").replace('title = "OC"\n', 'title = "OC"\nepochs = 2\n'), "utf-8")
    with pytest.raises(ConfigError) as refused:
        run_here(tmp_path, datasets)
    assert "oc-0: training.epochs=1, now 2" in str(refused.value)
    assert "uc-1/held_out: evaluation.k=5, now 4" in str(refused.value)
    budget = tmp_path / "work" / "yelp" / "pinnerformer-0" / "training" / "run.json"
    before = budget.stat().st_mtime_ns
    assert run_here(tmp_path, datasets, overwrite=True) == {}
    again = load_all(tmp_path / "figures")[0]
    assert again.seeds("uc", "held_out")[0]["k"] == 4
    assert len(next(iter(again.runs["oc"]["seeds"].values()))["training"]["epochs"]) == 2
    assert budget.stat().st_mtime_ns == before, "what had not changed is trained no second time"


def test_status_and_collect_say_and_write_what_is_there(place, datasets, tmp_path):
    subprocess.run(["cp", "-r", f"{place}/work", str(tmp_path)], check=True)
    study = tmp_path / "yelp.toml"
    study.write_text(STUDY.replace("k = 5", "k = 4"), "utf-8")
    for gone in ("mt_oc-0/steps", "uc-1/training"):
        shutil.rmtree(tmp_path / "work" / "yelp" / gone)
    options = [str(study), "--work", str(tmp_path / "work")]
    done = CliRunner().invoke(app, ["status", *options], catch_exceptions=False)
    lines = {line.split()[1].rstrip(":"): line for line in done.stdout.splitlines()}
    assert "to evaluate: steps" in lines["mt_oc-0"]
    assert "uc-1: to train;" in lines["uc-1"]
    assert "held_out: evaluation.k=5, now 4" in lines["uc-0"]

    study.write_text(STUDY, "utf-8")
    folders = ["--datasets", str(datasets), "--out", str(tmp_path)]
    CliRunner().invoke(app, ["collect", *options, *folders], catch_exceptions=False)
    (found,) = load_all(tmp_path)
    assert found.plain["not_run"] == ["UC (seed 1)"]
    assert set(found.runs["uc"]["seeds"]) == {"0"}
    assert found.seeds("mt_oc", "steps") == []


def test_figures_of_runs_that_would_be_gone_are_not_replaced(place, datasets, tmp_path):
    """A fresh clone has the committed figures and none of the runs behind them."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "yelp.toml").write_text(STUDY, "utf-8")
    committed = (place / "figures" / "yelp.json").read_bytes()
    (tmp_path / "figures" / "yelp.json").write_bytes(committed)
    lost = r"expected a folder without figures of .*pinnerformer-0 \(held_out\).*uc-0 \(training\)"
    with pytest.raises(ConfigError, match=lost):
        run_here(tmp_path, datasets, only=["oc"])
    options = [str(tmp_path / "yelp.toml"), "--work", str(tmp_path / "work"), "--datasets", str(datasets)]
    refused = CliRunner().invoke(app, ["collect", *options, "--out", str(tmp_path / "figures")])
    assert isinstance(refused.exception, ConfigError)
    assert (tmp_path / "figures" / "yelp.json").read_bytes() == committed


def test_figures_of_a_run_that_fails_are_not_replaced(place, datasets, tmp_path, monkeypatch):
    subprocess.run(["cp", "-r", f"{place}/work", f"{place}/figures", str(tmp_path)], check=True)
    (tmp_path / "yelp.toml").write_text(STUDY, "utf-8")
    committed = (tmp_path / "figures" / "yelp.json").read_bytes()
    shutil.rmtree(tmp_path / "work" / "yelp" / "oc-0")

    def fail(*_: object, **__: object) -> None:
        raise DataError("no luck today")

    monkeypatch.setattr("benchmarks.quality.worker.judge.train_run", fail)
    failed = run_here(tmp_path, datasets)
    assert "no luck today" in failed["yelp oc-0"]
    assert "oc-0 (training)" in failed["yelp figures"]
    assert (tmp_path / "figures" / "yelp.json").read_bytes() == committed


def test_what_is_refused_destroys_nothing(place, datasets, tmp_path):
    subprocess.run(["cp", "-r", f"{place}/work", f"{place}/figures", str(tmp_path)], check=True)
    (tmp_path / "yelp.toml").write_text(STUDY.replace("k = 5", "k = 4"), "utf-8")
    with pytest.raises(ConfigError, match="expected a folder without figures of"):
        run_here(tmp_path, datasets, only=["uc"], overwrite=True)
    assert (tmp_path / "work" / "yelp" / "uc-0" / "held_out" / "spec.json").is_file()


def test_a_place_that_cannot_be_written_is_refused_first_and_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    (tmp_path / "mine.toml").write_text(STUDY, "utf-8")
    command = [sys.executable, "-m", "benchmarks.quality", "run", tmp_path / "mine.toml", "--work", tmp_path / "work"]
    done = subprocess.run([*command, "--out", tmp_path / "file" / "figures"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path / 'file' / 'figures'}: Not a directory\n")
    assert not (tmp_path / "work").exists()


def test_a_piece_that_measures_time_waits_for_all_others_and_holds_new_ones_back(tmp_path):
    """The same holds for pieces of other studies that another process runs in the same folder."""
    events: list[str] = []
    started, may_end = threading.Event(), threading.Event()

    def piece(name: str, alone: bool, go_on: threading.Event | None = None) -> None:
        with turn(tmp_path, alone=alone, waiting=lambda: events.append(f"{name} waits")):
            events.append(f"{name} runs")
            started.set()
            if go_on is not None:
                go_on.wait()
            events.append(f"{name} ends")

    first = threading.Thread(target=piece, args=("first", False, may_end))
    timed = threading.Thread(target=piece, args=("timed", True))
    late = threading.Thread(target=piece, args=("late", False))
    first.start()
    started.wait()
    timed.start()
    wait_until(lambda: "timed waits" in events, "the timed piece")
    late.start()
    wait_until(lambda: "late waits" in events, "the late piece")
    may_end.set()
    for thread in (first, timed, late):
        thread.join()
    assert [e for e in events if not e.endswith("waits")] == [
        "first runs", "first ends", "timed runs", "timed ends", "late runs", "late ends",
    ]  # fmt: skip


def test_what_comes_after_a_failure_fails_and_nothing_else(tmp_path, datasets, place):
    def piece(name: str, study: str, after: set[str]) -> Piece:
        job = {"study": study, "run": "uc", "seed": 0, "work": str(place / "work"), "dataset": str(datasets / "walk"),
               "device": "cpu", "train": False, "evaluations": []}  # fmt: skip
        return Piece(id=name, kind="evaluation", units=1, job=job, log=tmp_path / name, after=frozenset(after))

    done: list[str] = []
    fine = str(place / "yelp.toml")
    pieces = [piece("bad", "no such study", set()), piece("after bad", fine, {"bad"}), piece("good", fine, set())]
    failed = run_pieces(pieces, workers=0, threads=1, report=done.append)
    assert set(failed) == {"bad", "after bad"}
    assert failed["after bad"] == "needs bad"
    assert [line.endswith("good") for line in done] == [True]


def test_a_killed_run_leaves_nothing_behind_and_goes_on(tmp_path, datasets):
    study = tmp_path / "long.toml"
    runs = '\n[evaluation]\nembeddings = 6\n\n[[runs]]\nname = "uc"\nvariant = "uc"\nevaluations = []\n'
    study.write_text('title = "long"\ndataset = "walk"\n' + TRAINING.format(epochs=60) + runs, "utf-8")
    command = [
        sys.executable, "-m", "benchmarks.quality", "run", str(study), "--work", str(tmp_path / "work"),
        "--datasets", str(datasets), "--out", str(tmp_path / "figures"), "--workers", "1",
    ]  # fmt: skip
    log = tmp_path / "work" / "long" / "uc-0" / "log.txt"
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_until(lambda: log.is_file() and "epoch 2/60" in log.read_text("utf-8"), "the second epoch")
    workers = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text("utf-8").split()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert workers
    wait_until(lambda: not any(is_running(worker) for worker in workers), "the workers' end")
    assert not (tmp_path / "work" / "long" / "uc-0" / "training" / "run.json").exists()

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "[1/1] uc-0" in again.stderr
    assert "resuming the unfinished run" in log.read_text("utf-8")
    found = load_all(tmp_path / "figures")[0]
    assert len(found.runs["uc"]["seeds"]["0"]["training"]["epochs"]) == 60


def is_running(process: str) -> bool:
    """Whether a process has not ended. One that has ended stays a zombie until its parent asks for its status."""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)
