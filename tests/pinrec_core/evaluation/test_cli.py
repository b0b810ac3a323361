"""``pinrec evaluate`` as a user calls it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pinrec_core.cli.evaluation_tables import short_names
from pinrec_core.cli.main import app
from pinrec_core.config import Variant
from pinrec_core.errors import ConfigError
from pinrec_core.evaluation.result import EvaluationResult, compare
from tests.pinrec_core.conftest import train_tiny


@pytest.fixture(scope="module")
def unconditioned(dataset, tmp_path_factory) -> str:
    return str(train_tiny(dataset, tmp_path_factory.mktemp("uc"), epochs=1, variant=Variant.UC).folder)


def evaluate(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


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
    assert [point["share"] for point in found["budget"]] == [round(0.1 * n, 1) for n in range(11)]
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


def test_bad_input_is_refused_before_anything_is_measured(run, unconditioned):
    for arguments, message in [
        (("--protocol", "warm"), "protocol='warm': expected one of"),
        (("--offsets", "1;2"), "offsets='1;2': expected whole numbers"),
        (("--matrix",), "--matrix: the second subject=None: expected a run or a release"),
        (("--sweep-budget", "save"), "expected FROM:TO"),
        (("--sweep-steps", 7), "embeddings=7: expected a multiple of 3"),
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
    with pytest.raises(ConfigError, match="conditions of the second subject"):
        evaluate(run.folder, f"{run.folder}/.", "--targets", 4, "--matrix")
    with pytest.raises(ConfigError, match="expected at most 8: the model was made for max_steps=8"):
        evaluate(run.folder, unconditioned, "--targets", 4, "--matrix")  # six steps of four offsets


def test_names_are_as_short_as_tells_them_apart():
    assert list(short_names(["runs/a/seed0", "runs/b/seed0", "popularity"]).values()) == [
        "a/seed0", "b/seed0", "popularity",
    ]  # fmt: skip
    assert short_names(["runs/ml100k/"]) == {"runs/ml100k/": "ml100k"}


def test_help_teaches_by_example():
    done = CliRunner().invoke(app, ["evaluate", "--help"], catch_exceptions=False)
    assert "pinrec evaluate runs/ml100k popularity co-occurrence" in " ".join(done.stdout.split())
