"""The page about steering, and the measures behind it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality import steering
from benchmarks.quality.budgets import BUDGET, Arm, arrays
from benchmarks.quality.measures import figure
from benchmarks.quality.results import StudyResult
from pinrec_core.evaluation.result import EvaluationResult
from pinrec_core.evaluation.studies.budget_sweep import SweepPoint

SWEPT = ("click", "hide")


def point(hit: list[list[int]], own: list[list[int]], logged: list[list[float]]) -> SweepPoint:
    """Two users with two targets each: a click and a hide, then a save and a hide."""
    return SweepPoint(
        share=0.4, outcomes=("save", "click", "hide"), hit=np.array(hit, bool), own=np.array(own),
        logged=np.array(logged), target_outcome=np.array([[1, 2], [0, 2]]),
    )  # fmt: skip


def test_the_measures_of_an_arm_by_hand_with_the_seeds_pooled():
    first = point([[1, 0], [1, 1]], [[0, 6, 4], [1, 5, 4]], [[1, 5, 4], [2, 3, 3]])  # two items have no rates
    second = point([[0, 0], [1, 1]], [[0, 5, 5], [0, 6, 4]], [[1, 5, 4], [2, 3, 3]])
    seeds = {
        seed: EvaluationResult(
            subject="s", protocol=BUDGET, metrics={}, user_id=[1, 2], arrays=dict(arrays(found, SWEPT))
        )
        for seed, found in enumerate((first, second))
    }
    arm = Arm("mt_oc", 0.4)
    values = {
        arm.recall(): 5 / 8, arm.recall_of("click"): 1 / 2, arm.recall_of("hide"): 2 / 4,
        arm.delivered("own", "click"): 22 / 40, arm.delivered("own", "hide"): 17 / 40,
        arm.delivered("logged", "click"): 8 / 18, arm.delivered("logged", "hide"): 7 / 18,
    }  # fmt: skip
    assert set(arm.measures(SWEPT)) == set(values)
    for measure, value in values.items():
        found = figure(measure, seeds)
        assert found["value"] == pytest.approx(value), measure.key
        assert found["seeds"] == 2
        assert found["ci95"][0] <= value <= found["ci95"][1]
    assert figure(arm.delivered("own", "hide"), seeds)["ci95"] == pytest.approx([0.4, 0.45])  # of single users
    assert first.own_mix["hide"] == pytest.approx(figure(arm.delivered("own", "hide"), {0: seeds[0]})["value"])


def test_the_figures_of_a_study_hold_every_arm_with_its_interval(result):
    (sweep,) = result.seeds("mt_oc", BUDGET)
    assert [(p["share"], p["own_mix"]["hide"]) for p in sweep["points"]] == [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]
    for plain in sweep["points"]:
        arm = Arm("mt_oc", plain["share"])
        for measure, value in (
            (arm.recall(), plain["served_recall"]), (arm.delivered("own", "hide"), plain["own_mix"]["hide"]),
            (arm.delivered("logged", "click"), plain["logged_mix"]["click"]),
            (arm.recall_of("click"), plain["served_recall_by_outcome"]["click"]),
        ):  # fmt: skip
            found = result.figure(measure)
            assert found["value"] == pytest.approx(value, rel=1e-4), measure.key
            assert found["ci95"] is not None


def rows_of(page: str, heading: str) -> list[list[str]]:
    """The table below a heading, without its header."""
    section = page.partition(f"### {heading}")[2].partition("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [line.strip("| ").split(" | ") for line in lines]


def test_the_page_has_a_row_per_budget_and_both_plots_per_run(result, tmp_path):
    page = steering.page([result], tmp_path)
    assert "\n## yelp\n" in page
    for run, title in (("oc", "OC"), ("mt-oc", "{MT,OC}")):
        rows = rows_of(page, f"{title}, from click to hide")
        assert [row[0] for row in rows] == ["0%", "50%", "100%"]
        assert rows[1][2] == "0.500 [0.500, 0.500]"
        assert all(cell.endswith("]") for row in rows for cell in row[1:])
        for plot in ("delivered", "pareto"):
            name = f"steering-yelp-{run}-{plot}.svg"
            assert f"]({name})" in page
            text = (tmp_path / name).read_text("utf-8")
            assert ("by own embeddings" in text) == (plot == "delivered")
            assert ("50%" in text) == (plot == "pareto")
    assert "earlier form" not in page
    (link,) = steering.link(result)
    assert "[steering](steering.md#yelp)" in "\n".join(link)


def of_an_earlier_form(result: StudyResult) -> None:
    """Eleven budgets, labels instead of a count by embeddings, and no values of users."""
    for name in [name for name in result.plain["figures"] if f":{BUDGET}:" in name]:
        del result.plain["figures"][name]
    for run in ("oc", "mt_oc"):
        for seed in result.seeds(run, BUDGET):
            (plain, *_) = seed["points"]
            plain["served_mix"] = plain.pop("own_mix")
            seed["points"] = [plain | {"share": tenths / 10} for tenths in range(11)]


def test_figures_of_an_earlier_form_are_shown_and_what_they_lack_is_said(result, tmp_path):
    of_an_earlier_form(result)
    page = steering.page([result], tmp_path)
    rows = rows_of(page, "{MT,OC}, from click to hide")
    assert len(rows) == 11
    (recall,) = {result.seeds("mt_oc", BUDGET)[0]["points"][0]["served_recall"]}
    assert all(row[1:3] == ["–", "–"] and row[5] == f"{recall:.3f}" for row in rows)
    assert page.count("of an earlier form, with no count by own embeddings and no intervals") == 2
    assert "by own embeddings" not in (tmp_path / "steering-yelp-mt-oc-delivered.svg").read_text("utf-8")


def test_an_outcome_without_targets_has_no_recall_and_breaks_nothing(result, tmp_path):
    for share in (0.0, 0.5, 1.0):
        result.figure(Arm("oc", share).recall_of("hide")).update(value=0.0, ci95=[None, None], targets=0)
    rows = rows_of(steering.page([result], tmp_path), "OC, from click to hide")
    assert {row[7] for row in rows} == {"–"}


def test_a_study_without_budgets_is_left_out(result, tmp_path):
    for run in result.runs.values():
        for seed in run["seeds"].values():
            seed["evaluations"].pop(BUDGET, None)
    page = steering.page([result], tmp_path)
    assert "## yelp" not in page
    assert "No study has figures" in page
    assert list(steering.link(result)) == []
    assert list(tmp_path.iterdir()) == []
