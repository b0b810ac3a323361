"""The studies, end to end on a tiny dataset: what is trained, judged, compared and written down, and what is refused.

Only the test of a killed run starts processes; the others run the same pieces in this one (``workers=0``).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import claims, report
from benchmarks.quality.__main__ import run_study
from benchmarks.quality.claims import Goal
from benchmarks.quality.measures import EQUAL_DISTINCT_ITEMS, Measure, comparison, figure
from benchmarks.quality.results import FOLDER, StudyResult, load_all
from benchmarks.quality.schedule import Piece, run_pieces
from benchmarks.quality.study import STUDIES, load_study, study_names
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.evaluation.result import EvaluationResult
from tests.pinrec_core.builders import write_dataset

ROOT = Path(__file__).parents[2]
ROW = {
    "claim", "dataset", "protocol", "metric", "value", "baseline", "baseline_value", "ratio", "ci95", "seeds", "goal",
    "command", "reached",
}  # fmt: skip
TRAINING = """
[training]
preset = "tiny"
epochs = {epochs}
settings = [
    "model.layers=1", "model.hidden_width=16", "model.item_width=8", "model.id_width=8", "model.id_rows=256",
    "model.max_history=24", "model.max_steps=12", "objective.in_batch_negatives=32", "objective.random_negatives=32",
    "objective.windows_per_step=128", "training.learning_rate=4e-3",
]
"""
# Named as one of the claims' studies, so that their claims are made of it.
STUDY = (
    """
title = "A walk through neighbouring items"
dataset = "walk"

[split]
evaluation_share = 0.3
held_out_last = 1
"""
    + TRAINING.format(epochs=1)
    + """
[evaluation]
targets = 4
k = 5
embeddings = 6
offsets = [1, 2]
outcome_embeddings = 2
offsets_per_step = [1, 2, 4]
sweep_embeddings = 4
latency_requests = 2
budget = ["click", "hide"]
max_users = 30
num_items = 20

[[runs]]
name = "uc"
title = "UC"
variant = "uc"
seeds = [0, 1]
evaluations = ["held_out", "cold", "controllability", "leave_one_out"]

[[runs]]
name = "oc"
title = "OC"
variant = "oc"
evaluations = ["held_out", "controllability", "budget"]

[[runs]]
name = "tables"
title = "ID pre-training"
variant = "dot_product"
epochs = 2

[[runs]]
name = "mt_oc"
title = "{MT,OC}"
variant = "mt_oc"
id_tables = "tables"
evaluations = ["held_out", "cold", "steps"]

[[runs]]
name = "pinnerformer"
title = "PinnerFormer"
variant = "pinnerformer"

[[runs]]
name = "popularity-by-surface"
title = "popularity by surface"
recommender = "popularity-by-surface"
evaluations = ["held_out", "cold", "leave_one_out"]

[[ablations]]
name = "id_tables"
title = "ID tables"
reference = "uc"
runs = ["mt_oc"]
loss_curves = true
"""
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    write_dataset(folder / "walk")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory, datasets) -> Path:
    """A folder in which the study ``yelp.toml`` has been run: ``work`` and ``figures``."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "yelp.toml").write_text(STUDY, "utf-8")
    assert run_here(folder, datasets) == {}
    return folder


@pytest.fixture
def result(place) -> StudyResult:
    return load_all(place / "figures")[0]


def run_here(folder: Path, datasets: Path, *, overwrite: bool = False, only: list[str] | None = None) -> dict[str, str]:
    name = str(folder / "yelp.toml")
    return run_study(
        load_study(name), name, only=only, workers=0, threads=1, device="cpu", data=folder, work=folder / "work",
        datasets=datasets, out=folder / "figures", overwrite=overwrite,
    )  # fmt: skip


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


def test_figures_pool_the_seeds_and_name_no_folder(place, result):
    found = result.figure(Measure(run="uc", evaluation="held_out", name="hit"))
    by_seed = [seed["unordered_recall"] for seed in result.seeds("uc", "held_out")]
    assert found["value"] == pytest.approx(np.mean(by_seed), rel=1e-5)  # six digits are kept
    assert found["seeds"] == 2
    assert str(place) not in (place / "figures" / "yelp.json").read_text("utf-8")
    # Without conditioning every desired outcome finds the same, so own and other targets add up to all of them.
    own = result.comparison(*claims.pairs_of("yelp", result.outcomes)[4])
    assert own["seeds"] == 1
    assert set(result.plain["controllability"]) == {"oc"}


def test_a_changed_study_is_refused_until_told_to_overwrite(place, datasets, tmp_path):
    subprocess.run(["cp", "-r", f"{place}/.", str(tmp_path)], check=True)
    study = tmp_path / "yelp.toml"
    study.write_text(STUDY.replace("k = 5", "k = 4").replace('title = "OC"\n', 'title = "OC"\nepochs = 2\n'), "utf-8")
    with pytest.raises(ConfigError) as refused:
        run_here(tmp_path, datasets)
    assert "oc-0: epochs=1, now 2" in str(refused.value)
    assert "uc-1/held_out: evaluation.k=5, now 4" in str(refused.value)
    budget = tmp_path / "work" / "yelp" / "pinnerformer-0" / "training" / "run.json"
    before = budget.stat().st_mtime_ns
    assert run_here(tmp_path, datasets, overwrite=True) == {}
    again = load_all(tmp_path / "figures")[0]
    assert again.seeds("uc", "held_out")[0]["k"] == 4
    assert len(next(iter(again.runs["oc"]["seeds"].values()))["training"]["epochs"]) == 2
    assert budget.stat().st_mtime_ns == before, "what had not changed is trained no second time"


def test_the_report_needs_only_the_figures_and_is_the_same_twice(place, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "yelp.json").write_bytes((place / "figures" / "yelp.json").read_bytes())
    written = []
    for out in (tmp_path / "first", tmp_path / "second"):
        rows = report.write_report(tmp_path / "figures", out)
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
        assert json.loads((out / "summary.json").read_text("utf-8")) == rows
    assert written[0] == written[1]
    names = set(written[0])
    assert {"README.md", "summary.json", "yelp.md", "yelp-controllability-oc.svg", "yelp-budget-oc.svg",
            "yelp-embeddings-per-step.svg", "yelp-id-tables-epochs.svg", "yelp-held-out.svg"} <= names  # fmt: skip
    page = written[0]["yelp.md"].decode()
    assert all(f"]({name})" in page for name in names if name.endswith(".svg"))
    check_rows(rows)
    readme = written[0]["README.md"].decode()
    assert "UC over PinnerFormer" in readme
    assert "## Not measured yet" in readme
    assert "SASRec" in readme.partition("## Not measured yet")[2]


def test_a_goal_is_reached_or_not(result):
    of, against = (Measure(run=run, evaluation="held_out", name="hit") for run in ("mt_oc", "uc"))
    claim = next(c for c in claims.claims_of("yelp", result.outcomes) if (c.of, c.against) == (of, against))
    stored = result.comparison(of, against)
    for ratio, reached in ((1.2, True), (1.11, True), (1.05, False)):
        stored |= {"value": 0.1 * ratio, "baseline_value": 0.1, "ratio": ratio, "ci95": [ratio - 0.1, ratio + 0.1]}
        assert claim.row(result)["reached"] is reached
    assert claim.row(result)["goal"] == ">= 1.11x"
    assert [c.row(result) for c in claims.claims_of("yelp", result.outcomes) if c.of.evaluation == "precision"] == (
        [None] * 3
    )


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [
        (Goal(compare="within", bound=0.005), 1.004, True),
        (Goal(compare="within", bound=0.005), 0.994, False),
        (Goal(compare="<=", bound=0.1), 0.1, True),
        (Goal(compare="<", bound=1.0), 1.0, False),
        (Goal(compare=">", bound=1.0), None, None),
    ],
)
def test_goals_are_checked_by_machine(goal, value, reached):
    assert goal.is_reached({"ratio": value}) is reached


def test_a_note_is_quoted_and_one_without_a_claim_refused(place, tmp_path):
    tmp_path.joinpath("notes.toml").write_text('mt-oc-over-uc = "Tried: two seeds."\n', "utf-8")
    report.write_report(place / "figures", tmp_path)
    assert "\nTried: two seeds.\n" in (tmp_path / "README.md").read_text("utf-8")
    tmp_path.joinpath("notes.toml").write_text('mt-over-uc = "No such claim."\n', "utf-8")
    with pytest.raises(ConfigError, match="mt-over-uc"):
        report.write_report(place / "figures", tmp_path)
    with pytest.raises(DataError, match="expected results of a study"):
        report.write_report(tmp_path / "nothing", tmp_path)


def result_of(seed_arrays: dict[str, list], users: list[int] | None = None) -> EvaluationResult:
    arrays = {name: np.array(values) for name, values in seed_arrays.items()}
    return EvaluationResult(
        subject="s", protocol="held-out", metrics={"latency": {"median_ms": 4.0}}, arrays=arrays,
        user_id=users or list(range(len(next(iter(arrays.values()))))),
    )  # fmt: skip


def test_comparisons_by_hand():
    a, b = (Measure(run=run, evaluation="held_out", name="hit") for run in "ab")
    seeds = {0: result_of({"hit": [[1, 1], [1, 0]]}), 1: result_of({"hit": [[1, 0], [0, 0]]})}
    baseline = {0: result_of({"hit": [[0, 1], [0, 1]]})}
    found = comparison(a, b, seeds, baseline)
    assert (found["value"], found["baseline_value"], found["ratio"], found["seeds"]) == (0.5, 0.5, 1.0, 2)
    assert found["ci95"] == [0.5, 1.5]  # a user alone has the ratio .75/.5 or .25/.5
    assert figure(a, seeds)["by_seed"] == {"0": 0.75, "1": 0.25}
    with pytest.raises(DataError, match="other users"):
        comparison(a, b, seeds, {0: result_of({"hit": [[0, 1], [0, 1]]}, users=[5, 6])})


def test_a_share_with_its_own_number_of_trials():
    share = Measure(run="a", evaluation="controllability", name="own", per="trials")
    found = figure(share, {0: result_of({"own": [2, 0], "trials": [3, 1]})})
    assert found["value"] == 0.5


def test_a_metric_that_is_no_mean_over_users_has_no_interval():
    of, against = (Measure(run=run, evaluation="steps-1", name="latency.median_ms") for run in "ab")
    found = comparison(of, against, {0: result_of({"hit": [1]})}, {0: result_of({"hit": [1]})})
    assert (found["ratio"], found["ci95"]) == (1.0, None)
    with pytest.raises(DataError, match=r"latency\.p50"):
        figure(Measure(run="a", evaluation="steps-1", name="latency.p50"), {0: result_of({"hit": [1]})})


def test_a_list_is_cut_to_as_many_distinct_items():
    of = Measure(run="a", evaluation="held_out", name="hit")
    against = Measure(run="b", evaluation="held_out", name=EQUAL_DISTINCT_ITEMS)
    first = {0: result_of({"hit": [[1, 1], [1, 0]], "distinct_items": [20, 10]})}
    one_list = {0: result_of({"list_rank": [[19, 20], [9, 10]]})}
    assert comparison(of, against, first, one_list)["baseline_value"] == 0.5


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
    """Whether it is there and has not ended: nobody may have asked for its status yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "oc"', 'name = "uc"', "runs.name='uc': expected a name of its own"),
        ('variant = "oc"', 'variant = "other"', "runs.oc.variant='other': expected one of"),
        ('id_tables = "tables"', 'id_tables = "uc"', "a run of variant dot_product"),
        ("targets = 4", "target = 4", r"evaluation keys=\['target'\]: expected only"),
        ("model.layers=1", "model.layer=1", "expected one of"),
        ('"held_out", "cold", "steps"', '"held_outs"', r"runs.mt_oc.evaluations=\['held_outs'\]"),
        ('runs = ["mt_oc"]', 'runs = ["mtoc"]', "ablations.id_tables='mtoc'"),
        ('evaluations = ["held_out", "cold", "leave_one_out"]', 'evaluations = ["steps"]', "it has no embeddings"),
        ("title = ", "titel = ", "study keys|missing"),
        ('dataset = "walk"', 'dataset = ', "expected TOML"),
    ],
)  # fmt: skip
def test_a_slip_in_a_study_is_named(old, new, message, tmp_path):
    assert old in STUDY
    path = tmp_path / "yelp.toml"
    path.write_text(STUDY.replace(old, new, 1), "utf-8")
    with pytest.raises(ConfigError, match=message):
        load_study(str(path))


def test_what_a_model_cannot_generate_is_refused_before_anything_is_trained(tmp_path, datasets):
    (tmp_path / "yelp.toml").write_text(STUDY.replace("embeddings = 6", "embeddings = 7", 1), "utf-8")
    with pytest.raises(ConfigError, match=r"run 'oc': embeddings=7: expected a multiple of 3"):
        run_here(tmp_path, datasets)
    with pytest.raises(ConfigError, match="expected one of"):
        load_study("yelpp")
    assert not list((tmp_path / "work" / "yelp").glob("*/"))


@pytest.mark.parametrize("name", study_names())
def test_every_claim_about_a_shipped_study_can_be_measured_in_it(name):
    study = load_study(name)
    measures = [m for pair in claims.pairs_of(name, ["outcome"]) for m in pair]
    measures += [claim.of for claim in claims.claims_of(name, ["outcome"])]
    for measure in measures:
        kind, _, width = measure.evaluation.partition("-")
        assert kind in study.runs[measure.run].evaluations, measure.key
        assert not width or int(width) in study.evaluation.offsets_per_step, measure.key
    assert STUDIES.joinpath(f"{name}.toml").is_file()


def test_every_group_of_claims_has_a_title():
    assert set(claims.GROUPS) == set(claims.TITLES)
    made = {claim.group for name in study_names() for claim in claims.claims_of(name, ["outcome"])}
    assert made == set(claims.GROUPS)


def test_the_committed_summary_is_what_its_figures_say(tmp_path):
    summary = report.FOLDER / "summary.json"
    if not summary.is_file():
        pytest.skip("no summary has been made yet: python -m benchmarks.quality report")
    rows = json.loads(summary.read_text("utf-8"))
    check_rows(rows)
    assert report.write_report(FOLDER, tmp_path) == rows


def check_rows(rows: list[dict]) -> None:
    assert rows
    for row in rows:
        assert set(row) == ROW
        assert row["seeds"] >= 1
        assert row["command"].startswith("python -m benchmarks.quality run ")
        if row["ratio"] is not None:  # both are rounded to six digits
            assert row["ratio"] == pytest.approx(row["value"] / row["baseline_value"], rel=1e-4)
        if row["ci95"] is not None and None not in row["ci95"]:
            assert row["ci95"][0] <= row["ratio"] <= row["ci95"][1]
        assert (row["goal"] is None) <= (row["reached"] is None)
