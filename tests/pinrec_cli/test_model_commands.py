"""The model's commands on bad input: one sentence on stderr, an exit code of its own, never a traceback."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pinrec_cli.main import app, main
from pinrec_core.config.sections import Variant
from pinrec_core.dataset.manifest import SEQUENCES
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.release.current import current_release
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.request import Request
from tests.pinrec_core.conftest import train_tiny


@pytest.fixture
def pinrec(monkeypatch, capsys):
    """Run ``pinrec <arguments>``: exit code and the last line of stderr; all of them are its ``lines``."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["pinrec", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        call.lines = capsys.readouterr().err.strip().splitlines()
        return code, call.lines[-1] if call.lines else ""

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
        ((bad_manifest, *out), 3, "dataset.json: expected a prepared dataset's manifest as JSON"),
        ((dataset, *out, "--out", tmp_path / "file"), 2, "expected a folder to write to"),
        ((dataset, *out, "--device", "nowhere"), 2, "device='nowhere': expected a torch device"),
        ((dataset, *out, "--epochs", 0), 2, "epochs=0: expected a value above 0"),
        ((dataset, *out, "--seed", -1), 2, "seed=-1: expected a value of at least 0"),
        ((dataset, *out, "--set", "objective.window=x"), 2, "window='x': expected a whole number"),
        ((dataset, *out, "--set", "objective.window_reduction=max"), 2, "expected one of ['mean', 'min', 'marginal']"),
        ((dataset, *out, "--preset", "huge"), 2, "preset='huge'"),
        ((dataset, *out, "--set", "model.layers=abc"), 2, "model.layers='abc': expected a whole number"),
        (
            (dataset, *out, "--set", "model.id_rows=1099511627776"),
            2,
            "model.id_rows=1099511627776: expected a value of",
        ),
    ]:
        got, line = pinrec("train", *arguments)
        assert (got, line.startswith("pinrec: "), message in line) == (code, True, True), line
    assert not (tmp_path / "run").exists()


def test_a_seed_that_was_set_is_not_overridden_by_the_options_default(pinrec, dataset, tmp_path):
    settings = ("model.hidden_width=16", "objective.windows_per_step=8", "training.seed=7")
    options = [option for setting in settings for option in ("--set", setting)]
    assert pinrec("train", dataset, "--out", tmp_path, "--preset", "tiny", "--epochs", 1, *options)[0] == 0
    assert json.loads((tmp_path / "run.json").read_text())["training"]["seed"] == 7


def test_what_train_says_where_there_is_no_terminal(pinrec, dataset, tmp_path, monkeypatch):
    """One sentence where it is refused; lines in between; and a next command that is not refused."""
    assert pinrec("train", dataset, "--out", tmp_path, "--device", "nowhere")[0] == 2
    assert len(pinrec.lines) == 1
    monkeypatch.setattr("pinrec_cli.train.LINE_SECONDS", 0.0)
    options = ("--preset", "tiny", "--epochs", 1, "--variant", "dot_product")
    code, line = pinrec("train", dataset, "--out", tmp_path / "ids", *options)
    assert (code, line) == (
        0, f"run written to {tmp_path / 'ids'}; next: pinrec train {dataset} --out RUN --id-tables {tmp_path / 'ids'}",
    )  # fmt: skip
    assert re.fullmatch(r"epoch 1/1  \d+% of the run  loss .*", pinrec.lines[0])


def test_ctrl_c_is_a_sentence_too(pinrec, dataset, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pinrec_core.dataset.manifest.DatasetManifest.load", interrupted)
    assert pinrec("train", dataset, "--out", "run") == (130, "pinrec: interrupted")
    assert pinrec("evaluate", "popularity", "--dataset", dataset) == (130, "pinrec: interrupted")


def test_evaluate_and_release_name_what_they_lack(pinrec, run, dataset, tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    for arguments, code, message in [
        (("evaluate", tmp_path), 3, "expected a finished training run"),
        (("evaluate", tmp_path / "damaged"), 3, "run.json: expected a finished training run as JSON"),
        (("evaluate", run.folder, "--dataset", tmp_path), 3, "expected a prepared dataset's manifest"),
        (("evaluate", run.folder, "--targets", 4, "--k", 0), 2, "k=0: expected a value above 0"),
        (("evaluate", run.folder, "--targets", 0), 2, "targets=0: expected a value above 0"),
        (("evaluate", run.folder, "--max-users", 0), 2, "max_users=0: expected a value above 0"),
        (("evaluate", run.folder, "--targets", 1000), 3, "for targets=1000 with evaluation_share=0.3: lower"),
        (("release", tmp_path), 3, "expected a finished training run"),
        (("release", run.folder, "--targets", -1), 2, "targets=-1: expected a value above 0"),
        (("release", run.folder, "--id-rows", "fp8"), 2, "--id-rows='fp8': expected one of fp16, int8"),
    ]:
        got, line = pinrec(*arguments)
        assert (got, line.startswith("pinrec: "), message in line) == (code, True, True), line


def test_outcomes_in_another_order_are_never_published_under_each_others_names(pinrec, run, dataset, tmp_path):
    reordered = shutil.copytree(dataset, tmp_path / "reordered")
    for path in (reordered / "dataset.json", *reordered.glob("signals/**/*.json")):
        plain = json.loads(path.read_text())
        path.write_text(json.dumps(plain | {"outcomes": plain["outcomes"][::-1]}))
    for command in (
        ("evaluate", run.folder, "popularity"),
        ("release", run.folder, "--releases", tmp_path / "releases"),
    ):
        code, line = pinrec(*command, "--dataset", reordered)
        assert (code, "expected ('save', 'click', 'hide'), which the model was trained with" in line) == (3, True), line
    assert not (tmp_path / "releases").exists()


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
    manifest = json.loads((published / "manifest.json").read_text())
    assert manifest["training"] == {"evaluation_share": run.training.evaluation_share, "held_out_last": 0}
    assert manifest["metrics"] == {}
    code, line = pinrec("release", published, *releases)
    assert (code, "a release, expected a run" in line) == (3, True)
    assert "--dataset: expected the prepared dataset to judge on" in pinrec("evaluate", published)[1]


def release(run_folder, *arguments: object) -> tuple[dict, str]:
    """The manifest of a new release, and stderr."""
    releases = run_folder.parent / f"releases-{run_folder.name}-{len(arguments)}"
    shutil.rmtree(releases, ignore_errors=True)
    options = ["release", str(run_folder), "--releases", str(releases), *map(str, arguments)]
    done = CliRunner().invoke(app, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((current_release(releases) / "manifest.json").read_text()), done.stderr


def trained_with(run, folder, **training: float):
    """The same run, as if other users and items had been held out."""
    shutil.copytree(run.folder, folder)
    plain = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(plain | {"training": plain["training"] | training}))
    return folder


def cut_to(items: int, dataset, folder):
    """The same dataset with that many interactions per user."""
    shutil.copytree(dataset, folder)
    for part in (folder / SEQUENCES).glob("*.parquet"):
        table = pq.read_table(part)
        cut = [{k: v[:items] if isinstance(v, list) else v for k, v in row.items()} for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(cut, schema=table.schema), part)
    return folder


def test_a_release_is_calibrated_whatever_its_figures_are_of(run, tmp_path):
    folder = trained_with(run, tmp_path / "run")
    judged, said = release(folder)
    assert "warning" not in said
    assert judged["calibration"]["calibrated_on"]["unseen"]
    not_judged, said = release(folder, "--targets", 100_000)
    assert "warning: the release holds no figures: no held-out user has enough interactions for targets=100000" in said
    assert "unordered_recall" not in not_judged["metrics"]
    for part in ("generation", "calibration"):
        assert not_judged[part] == judged[part]


def test_users_of_few_items_calibrate_with_fewer_targets(run, dataset, tmp_path):
    folder = trained_with(run, tmp_path / "run")
    manifest, said = release(folder, "--dataset", cut_to(4, dataset, tmp_path / "short"))
    assert manifest["calibration"]["calibrated_on"]["targets_per_user"] == 2
    assert "calibrated on nobody" not in said
    assert "the release holds no figures" in said


def test_a_release_calibrated_on_nobody_says_so(run, dataset, tmp_path):
    folder = trained_with(run, tmp_path / "run")
    manifest, said = release(folder, "--dataset", cut_to(1, dataset, tmp_path / "short"))
    assert "warning: calibrated on nobody: no user of --protocol held-out-validation has a history" in said
    assert manifest["calibration"]["calibrated_on"]["users"] == 0


def test_a_run_trained_on_all_users_is_released(run, tmp_path):
    manifest, said = release(trained_with(run, tmp_path / "items", evaluation_share=0.0, held_out_last=2))
    assert "warning" not in said
    assert manifest["calibration"]["calibrated_on"]["protocol"] == "leave-one-out-validation"
    assert manifest["metrics"]["protocol"] == "leave-one-out"
    assert manifest["metrics"]["ndcg"] > 0
    nothing_held_out = trained_with(run, tmp_path / "nothing", evaluation_share=0.0)
    manifest, said = release(nothing_held_out)
    assert "warning: calibrated on items that training has seen" in said
    assert "warning: the release holds no figures" in said
    assert not manifest["calibration"]["calibrated_on"]["unseen"]
    assert manifest["training"] == {"evaluation_share": 0.0, "held_out_last": 0}
    assert manifest["metrics"] == {}


def test_a_baseline_is_not_released_as_what_it_is_not(pinrec, dataset, tmp_path):
    for variant, options, unused in [
        (Variant.PINNERFORMER, ("--embeddings", 48, "--offsets", "1,7"), "--embeddings, --offsets"),
        (Variant.UC, ("--offsets", "1,2"), "--offsets"),
    ]:
        folder = train_tiny(dataset, tmp_path / variant, epochs=1, variant=variant).folder
        code, line = pinrec("release", folder, "--releases", tmp_path / "releases", *options)
        assert code == 2
        assert f"{unused}: expected none for {folder}, a {variant} model has no use for it" in line
    assert not (tmp_path / "releases").exists()


@pytest.mark.parametrize("variant", [variant for variant in Variant if variant is not Variant.DOT_PRODUCT])
def test_a_run_of_every_variant_that_generates_is_released_and_answers(variant, dataset, tmp_path):
    run = train_tiny(dataset, tmp_path / "run", epochs=1, variant=variant, id_width=16)  # SASRec: as wide as an item
    manifest, _ = release(run.folder, "--no-evaluate")
    assert manifest["model"]["variant"] == variant
    published = Release.open(current_release(tmp_path / "releases-run-1"))
    served = IndexedModel.from_release(published)
    _, history = next(iter_histories(dataset / SEQUENCES))
    request = Request(
        history=history, surface=1, time=1_700_000_000, seed=0, budget=served.default_budget, num_items=10
    )  # fmt: skip
    (answer,) = served.answer([request])
    assert len(set(answer.item_row.tolist())) == 10
