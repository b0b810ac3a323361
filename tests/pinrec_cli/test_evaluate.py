"""``pinrec evaluate`` as a user calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pinrec_cli.evaluation_tables import short_names
from pinrec_cli.main import app
from pinrec_core.config.sections import Variant
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.evaluation.result import EvaluationResult, compare
from tests.pinrec_core.conftest import train_tiny


@pytest.fixture(scope="module")
def unconditioned(dataset, tmp_path_factory) -> str:
    return str(train_tiny(dataset, tmp_path_factory.mktemp("uc"), epochs=1, variant=Variant.UC).folder)


@pytest.fixture(scope="module")
def one_embedding(dataset, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("pinnerformer")
    return str(train_tiny(dataset, folder, epochs=1, variant=Variant.PINNERFORMER).folder)


def invoke(*arguments: object):
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def evaluate(*arguments: object) -> str:
    return invoke(*arguments).stdout


def evaluate_json(*arguments: object) -> dict:
    return json.loads(evaluate(*arguments, "--json"))


def test_tables_name_every_subject_and_their_ratio(run):
    text = evaluate(run.folder, "popularity", "--targets", 4)
    for words in (run.folder.name, "popularity", "served recall@100", "NDCG", "over the others"):
        assert (words in text) == (words != "NDCG"), words


def test_json_holds_the_metrics_and_the_first_over_the_others(run, tmp_path):
    out = tmp_path / "results"
    found = evaluate_json(run.folder, "popularity", "co-occurrence", "--targets", 4, "--k", 3, "--out", out)
    assert list(found["subjects"]) == [str(run.folder), "popularity", "co-occurrence"]
    assert {c["baseline"] for c in found["comparisons"]} == {"popularity", "co-occurrence"}
    saved = [EvaluationResult.load(out / name) for name in (run.folder.name, "popularity")]
    assert saved[0].metrics == found["subjects"][str(run.folder)]
    (ratio,) = (c for c in found["comparisons"] if (c["metric"], c["baseline"]) == ("unordered_recall", "popularity"))
    assert compare(saved[:1], saved[1:], "hit").value == pytest.approx(ratio["value"])
    retrieved = {name: metrics["retrieved_items"] for name, metrics in found["subjects"].items()}
    assert len(set(retrieved.values())) == 1  # E·k for every subject


def test_variants_at_an_equal_number_of_embeddings_and_what_a_budget_does(run, unconditioned):
    found = evaluate_json(
        run.folder, unconditioned, "--targets", 4, "--offsets", "1,2", "--embeddings", 6, "--matrix",
        "--sweep-budget", "save:hide", "--sweep-steps", 24, "--max-users", 12, "--num-items", 20,
    )  # fmt: skip
    assert {metrics["embeddings"] for metrics in found["subjects"].values()} == {6}
    assert set(found["controllability"]) == {"save", "click", "hide"}
    assert [point["share"] for point in found["budget"]] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert [point["offsets_per_step"] for point in found["steps"]] == [1, 2, 4]
    assert {metrics["num_items"] for metrics in found["subjects"].values()} == {20}
    assert all("served_recall" not in point["metrics"] for point in found["steps"])  # calibrated for other steps


def test_fewer_embeddings_look_deeper_at_equal_items_and_it_is_said(run, unconditioned):
    done = CliRunner().invoke(
        app,
        ["evaluate", str(run.folder), unconditioned, "--targets", "4", "--offsets", "1", "--max-users", "5", "--json"],
    )
    of_mt_oc, of_uc = json.loads(done.stdout)["subjects"].values()
    assert of_mt_oc["embeddings"] == 3 * of_uc["embeddings"]
    assert of_mt_oc["retrieved_items"] == of_uc["retrieved_items"]
    assert "recall@k favours the larger" in " ".join(done.stderr.split())


def test_an_evaluation_is_saved_whole_and_replaced_only_when_told(run, tmp_path, monkeypatch):
    out = tmp_path / "results"
    arguments = ("popularity", "--targets", 4, "--max-users", 5)
    evaluate(*arguments, "co-occurrence", "--dataset", run.dataset, "--out", out)
    monkeypatch.setattr("pinrec_core.evaluation.opening.open_subject", None)  # nothing is opened, let alone judged
    for place in (out, run.folder, tmp_path / "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="expected a path that does not exist; --overwrite replaces"):
            evaluate(*arguments, "--dataset", run.dataset, "--out", place)
    with pytest.raises(DataError, match="expected a folder of evaluations to overwrite"):
        evaluate(*arguments, "--dataset", run.dataset, "--out", run.folder, "--overwrite")
    with pytest.raises(DataError, match="expected a place for a new folder"):
        evaluate(*arguments, "--dataset", run.dataset, "--out", tmp_path / "file" / "results")
    monkeypatch.undo()
    evaluate(*arguments, "--dataset", run.dataset, "--out", out, "--overwrite")
    assert [path.name for path in out.iterdir()] == ["popularity"]


def test_figures_are_printed_before_they_are_saved(run, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EvaluationResult, "save", full)
    done = CliRunner().invoke(app, ["evaluate", str(run.folder), "--targets", "4", "--out", str(tmp_path / "results")])
    assert isinstance(done.exception, OSError)
    assert "unordered recall@10" in done.stdout
    assert not list(tmp_path.iterdir())


def test_options_without_use_are_named(run, unconditioned, one_embedding, dataset, tmp_path):
    few = ("--targets", 4, "--max-users", 5)
    said = invoke(unconditioned, one_embedding, *few, "--offsets", "1,2", "--embeddings", 6).stderr
    assert f"note: {unconditioned}: a uc model has no use for --offsets\n" in said
    assert f"note: {one_embedding}: a pinnerformer model has no use for --embeddings, --offsets\n" in said
    assert "has no use for" not in invoke(run.folder, *few, "--offsets", "1,2", "--embeddings", 6).stderr
    alone = ("popularity", "--dataset", dataset, "--protocol", "leave-one-out")
    assert "ranks one target" not in invoke(*alone).stderr
    said = invoke(*alone, "--targets", 4, "--num-items", 20, "--exclude-seen").stderr
    assert (
        "note: --protocol leave-one-out ranks one target by one embedding; --targets, --num-items, --exclude-seen: "
        in said
    )


def test_a_log_file_is_told_how_far_it_is(run, monkeypatch):
    monkeypatch.setattr("pinrec_cli.evaluation_progress.LINE_SECONDS", 0.0)
    said = invoke(run.folder, "--targets", 4, "--max-users", 7, "--sweep-steps", 12).stderr
    assert f"{run.folder}: 7 of at most 7 users\n" in said
    assert "embeddings per step: 14 of at most 21 users\n" in said


def test_bad_input_is_refused_before_anything_is_measured(run, unconditioned, one_embedding, tmp_path):
    for arguments, message in [
        (("--protocol", "warm"), "protocol='warm': expected one of"),
        (("--offsets", "1;2"), "offsets='1;2': expected whole numbers"),
        (("--matrix",), "--matrix: the second subject=None: expected a run or a release"),
        (("--sweep-budget", "save"), "expected FROM:TO"),
        (("--sweep-budget", ""), "expected FROM:TO"),
        (("--sweep-budget", "save:save"), "--sweep-budget='save:save': expected FROM:TO, two of"),
        (("--sweep-steps", 7), "embeddings=7: expected a multiple of 3"),
        (("--sweep-steps", 0), "embeddings=0: expected a multiple of 3"),
        ((run.folder.parent / ".." / run.folder.parent.name / run.folder.name,), "expected each of them once"),
        (("--offsets", "1,9"), "offsets=.*: expected none above max_offset=4"),
        (("--device", "nowhere"), "device='nowhere': expected a torch device"),
    ]:
        with pytest.raises(ConfigError, match=message):
            evaluate(run.folder, "--targets", 4, *arguments)
    with pytest.raises(ConfigError, match="expected a run or a release"):
        evaluate("popularity", run.folder, "--targets", 4, "--precision")
    for option in ("--matrix", "--sweep-budget=save:hide"):
        with pytest.raises(ConfigError, match="expected a model conditioned on outcomes"):
            evaluate(unconditioned, run.folder, "--targets", 4, option)
    with pytest.raises(
        DataError, match=r"popularty: expected the folder of a run or release, or one of .*'popularity'"
    ):
        evaluate("popularty", "--targets", 4)
    with pytest.raises(ConfigError, match="conditions of the second subject"):
        evaluate(run.folder, shutil.copytree(run.folder, tmp_path / "copy"), "--targets", 4, "--matrix")
    with pytest.raises(ConfigError, match=r"generates 6 embeddings, .*; a pinnerformer model has one"):
        evaluate(run.folder, one_embedding, "--targets", 4, "--embeddings", 18, "--offsets", "1", "--matrix")
    with pytest.raises(ConfigError, match=r"--sweep-steps: the first subject=.*; a pinnerformer model has one"):
        evaluate(one_embedding, "--targets", 4, "--sweep-steps", 8)
    with pytest.raises(ConfigError, match="expected at most 8: the model was made for max_steps=8"):
        evaluate(run.folder, unconditioned, "--targets", 4, "--matrix")  # six steps of four offsets


def test_names_are_as_short_as_tells_them_apart():
    assert list(short_names(["runs/a/seed0", "runs/b/seed0", "popularity"]).values()) == [
        "a/seed0", "b/seed0", "popularity",
    ]  # fmt: skip
    assert short_names(["runs/ml100k/"]) == {"runs/ml100k/": "ml100k"}
    for subjects in (["/a/run", "/run"], ["../run", "run"], ["/popularity", "popularity"], ["a/../run", "/run", "run"]):
        names = [Path(name) for name in short_names(subjects).values()]
        assert len(set(names)) == len(subjects)
        assert not any(name.is_absolute() or ".." in name.parts for name in names)


def test_help_teaches_by_example():
    done = CliRunner().invoke(app, ["evaluate", "--help"], catch_exceptions=False)
    assert "pinrec evaluate runs/ml100k popularity co-occurrence" in " ".join(done.stdout.split())
