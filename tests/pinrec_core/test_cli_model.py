"""The model's commands on bad input: one sentence on stderr, an exit code of its own, never a traceback."""

from __future__ import annotations

import json
import shutil

import pytest

from pinrec_core.cli.main import main


@pytest.fixture
def pinrec(monkeypatch, capsys):
    """Run ``pinrec <arguments>``: exit code and the last line of stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["pinrec", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        lines = capsys.readouterr().err.strip().splitlines()
        return code, lines[-1] if lines else ""

    return call


def test_train_names_what_it_lacks(pinrec, dataset, tmp_path):
    out = ("--out", tmp_path / "run", "--preset", "tiny")
    (tmp_path / "file").write_text("")
    no_signals = shutil.copytree(dataset, tmp_path / "bare", ignore=shutil.ignore_patterns("signals"))
    bad_manifest = shutil.copytree(dataset, tmp_path / "bad")
    (bad_manifest / "dataset.json").write_text("{")
    for arguments, code, message in [
        ((tmp_path / "nowhere", *out), 3, "expected a prepared dataset's manifest"),
        ((no_signals, *out), 3, "run `pinrec prepare` without --skip-signals"),
        ((bad_manifest, *out), 3, "dataset.json: expected a dataset's manifest"),
        ((dataset, *out, "--out", tmp_path / "file"), 2, "expected a folder to write to"),
        ((dataset, *out, "--device", "nowhere"), 2, "device='nowhere': expected a torch device"),
        ((dataset, *out, "--epochs", 0), 2, "epochs=0: expected a value above 0"),
        ((dataset, *out, "--seed", -1), 2, "seed=-1: expected a value of at least 0"),
        ((dataset, *out, "--set", "objective.window=x"), 2, "window='x': expected a whole number"),
        ((dataset, *out, "--set", "objective.window_reduction=max"), 2, "expected one of ['mean', 'min', 'marginal']"),
        ((dataset, *out, "--preset", "huge"), 2, "preset='huge'"),
    ]:
        got, line = pinrec("train", *arguments)
        assert (got, line.startswith("pinrec: "), message in line) == (code, True, True), line
    assert not (tmp_path / "run").exists()


def test_a_seed_that_was_set_is_not_overridden_by_the_options_default(pinrec, dataset, tmp_path):
    settings = ("model.hidden_width=16", "objective.windows_per_step=8", "training.seed=7")
    options = [option for setting in settings for option in ("--set", setting)]
    assert pinrec("train", dataset, "--out", tmp_path, "--preset", "tiny", "--epochs", 1, *options)[0] == 0
    assert json.loads((tmp_path / "run.json").read_text())["training"]["seed"] == 7


def test_evaluate_and_release_name_what_they_lack(pinrec, run, dataset, tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    for arguments, code, message in [
        (("evaluate", tmp_path), 3, "expected a finished training run"),
        (("evaluate", tmp_path / "damaged"), 3, "run.json: expected what `pinrec train` writes"),
        (("evaluate", run.folder, "--dataset", tmp_path), 3, "expected a prepared dataset's manifest"),
        (("evaluate", run.folder, "--targets", 4, "--k", 0), 2, "k=0: expected a value above 0"),
        (("evaluate", run.folder, "--targets", 0), 2, "targets=0: expected a value above 0"),
        (("evaluate", run.folder, "--max-users", 0), 2, "max_users=0: expected a value above 0"),
        (("evaluate", run.folder, "--targets", 1000), 3, "no held-out user has enough interactions"),
        (("release", tmp_path), 3, "expected a finished training run"),
        (("release", run.folder, "--targets", -1), 2, "targets=-1: expected a value above 0"),
    ]:
        got, line = pinrec(*arguments)
        assert (got, line.startswith("pinrec: "), message in line) == (code, True, True), line


def test_a_release_generates_what_was_asked_for(pinrec, run, tmp_path):
    options = ("--releases", tmp_path, "--no-evaluate")
    assert "embeddings=7: expected a multiple of" in pinrec("release", run.folder, *options, "--embeddings", 7)[1]
    assert "offsets='1,x': expected whole numbers" in pinrec("release", run.folder, *options, "--offsets", "1,x")[1]
    asked = ("--embeddings", 2 * run.model.num_conditions, "--offsets", "1")
    assert pinrec("release", run.folder, *options, *asked)[0] == 0
    (published,) = (path for path in tmp_path.iterdir() if path.is_dir())
    generation = json.loads((published / "manifest.json").read_text())["generation"]
    assert (generation["steps"], generation["offsets"]) == (2, [1])


def test_a_release_cannot_be_released_again(pinrec, run, tmp_path):
    releases = ("--releases", tmp_path, "--targets", 4)
    assert pinrec("release", run.folder, *releases, "--no-evaluate")[0] == 0
    (published,) = (path for path in tmp_path.iterdir() if path.is_dir())
    metrics = json.loads((published / "manifest.json").read_text())["metrics"]
    assert metrics == {"evaluation_share": run.training.evaluation_share, "held_out_last": 0}
    assert pinrec("release", published, "--dataset", run.dataset, *releases)[0] == 3
    assert "--dataset: expected the prepared dataset to judge on" in pinrec("evaluate", published)[1]
