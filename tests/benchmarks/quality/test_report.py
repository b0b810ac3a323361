"""Claims and goals, and the report that is made of the figures."""

from __future__ import annotations

import json

import pytest

from benchmarks.quality import claims, report
from benchmarks.quality.goals import Claim, Goal
from benchmarks.quality.measures import Measure
from benchmarks.quality.results import FOLDER
from benchmarks.quality.study import STUDIES, load_study, study_names
from pinrec_core.errors import ConfigError, DataError

ROW = {
    "claim", "dataset", "protocol", "metric", "value", "baseline", "baseline_value", "ratio", "ci95", "seeds", "goal",
    "command", "reached", "certain", "by_seed", "baseline_by_seed", "targets",
}  # fmt: skip


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
    assert {"README.md", "summary.json", "yelp.md", "steering.md", "yelp-controllability-oc.svg",
            "yelp-embeddings-per-step.svg", "yelp-id-tables-epochs.svg", "yelp-held-out.svg"} <= names  # fmt: skip
    page = (written[0]["yelp.md"] + written[0]["steering.md"]).decode()
    assert all(f"]({name})" in page for name in names if name.endswith(".svg"))
    check_rows(rows)
    readme = written[0]["README.md"].decode()
    assert "UC over PinnerFormer" in readme
    missing = readme.partition("## Not measured yet")[2].partition("\n## ")[0]
    assert "{MT,OC} served, against the top 100 of SASRec" in missing.partition("- yelp: ")[2].partition("\n")[0]
    assert "globo: UC over PinnerFormer" in missing  # a study without figures


def test_headlines_go_between_the_marks_of_a_readme(place, tmp_path):
    readme = tmp_path / "top.md"
    readme.write_text("Above.\n\n<!-- headlines -->\nold\n<!-- end of headlines -->\n\nBelow.\n", "utf-8")
    for _ in range(2):  # the second time they are replaced
        report.write_report(place / "figures", tmp_path / "report", readme)
    text = readme.read_text("utf-8")
    assert text.startswith("Above.\n\n<!-- headlines -->\n\n| figure | goal | by log |\n")
    assert text.endswith(" goals measured are reached.\n\n<!-- end of headlines -->\n\nBelow.\n")
    assert "old" not in text
    measured = [headline for headline in claims.HEADLINES if headline.words in text]
    assert {headline.metric for headline in measured} == {"served recall@100", "unordered recall@10"}
    assert text.count("| yelp ") == len(measured)  # one row each, with the figures that the overview has
    overview = overview_of((tmp_path / "report" / "README.md").read_text("utf-8"))
    for headline in measured:
        (row,) = [line for line in overview if line.startswith(f"| {headline.claim} |") and headline.metric in line]
        assert f"| {headline.words} |{row.split('|', 4)[4]}" in text
    readme.write_text("Above.\n", "utf-8")
    with pytest.raises(DataError, match="end of headlines"):
        report.write_report(place / "figures", tmp_path / "report", readme)


def test_the_overview_has_a_row_for_each_claim_that_is_shown_in_it(place, result, tmp_path):
    report.write_report(place / "figures", tmp_path)
    rows = overview_of((tmp_path / "README.md").read_text("utf-8"))
    shown = {c.claim for c in claims.claims_of("yelp", result.outcomes) if c.overview and c.row(result) is not None}
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} == shown
    assert sum(row.startswith("| UC over PinnerFormer |") for row in rows) == 2  # at k, and at equal items
    assert not any("over UC |" in row and "all budget on" in row for row in rows)  # of single outcomes
    assert all(row.count("yelp ") == 1 for row in rows)


def test_every_headline_is_one_row_of_the_overview():
    """The README's table finds a row by claim and metric, so there may be only one row for each pair."""
    shown = {
        (claim.claim, claim.metric)
        for name in study_names()
        for claim in claims.claims_of(name, ["outcome"])
        if claim.overview and claim.goal is not None
    }
    assert {(headline.claim, headline.metric) for headline in claims.HEADLINES} <= shown
    overview = overview_of((report.FOLDER / "README.md").read_text("utf-8"))
    verdicts = []
    for headline in claims.HEADLINES:
        rows = [row.strip("| ").split(" | ") for row in overview]
        (found,) = [row for row in rows if (row[0], row[2]) == (headline.claim, headline.metric)]
        verdicts.append("**missed**" in found[4])
    assert any(verdicts) or not any("**missed**" in row for row in overview), "expected a missed goal among them"


def test_a_goal_is_reached_or_not(result):
    of, against = (Measure(run=run, evaluation="held_out", name="hit") for run in ("mt_oc", "uc"))
    compared = [claim for claim in claims.claims_of("yelp", result.outcomes) if isinstance(claim, Claim)]
    claim = next(c for c in compared if (c.of, c.against) == (of, against))
    stored = result.comparison(of, against)
    for ratio, reached in ((1.2, True), (1.11, True), (1.05, False)):
        stored |= {"value": 0.1 * ratio, "baseline_value": 0.1, "ratio": ratio, "ci95": [ratio - 0.1, ratio + 0.1]}
        assert claim.row(result)["reached"] is reached
        assert claim.row(result)["certain"] is False
    stored |= {"ratio": 1.2, "ci95": [1.15, 1.25]}
    assert claim.row(result)["certain"] is True
    assert claim.row(result)["goal"] == ">= 1.11x"
    assert [c.row(result) for c in compared if c.of.evaluation == "precision"] == [None] * 3


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


@pytest.mark.parametrize(
    ("goal", "row", "certain"),
    [
        (Goal(compare=">=", bound=1.1), {"ratio": 1.2, "ci95": [1.11, 1.3]}, True),
        (Goal(compare=">=", bound=1.1), {"ratio": 1.2, "ci95": [1.0, 1.3]}, False),
        (Goal(compare=">=", bound=1.1), {"ratio": 1.0, "ci95": [0.9, 1.05]}, True),
        (Goal(compare=">", bound=1.0), {"ratio": 1.3, "ci95": [1.0, None]}, False),
        (Goal(compare="<=", bound=0.1), {"ratio": 0.09, "ci95": None}, None),
        (Goal(compare="within", bound=0.005), {"ratio": 1.0, "ci95": [0.996, 1.004]}, True),
        (Goal(compare="within", bound=0.005), {"ratio": 1.0, "ci95": [0.99, 1.004]}, False),
        (Goal(compare="within", bound=0.005), {"ratio": 1.01, "ci95": [1.006, 1.02]}, True),
        (Goal(compare="within", bound=0.005), {"ratio": 1.01, "ci95": [0.98, 1.02]}, False),
        # Of the value: the interval is that of the ratio to the published figure.
        (Goal(compare=">=", bound=0.33, of="value"),
         {"value": 0.32, "ratio": 1.6, "ci95": [1.5, 1.7], "baseline_value": 0.2}, False),
        (Goal(compare=">=", bound=0.33, of="value"),
         {"value": 0.32, "ratio": 1.6, "ci95": [1.5, 1.64], "baseline_value": 0.2}, True),
    ],
)  # fmt: skip
def test_a_goal_within_the_interval_is_open(goal, row, certain):
    assert goal.is_certain(row) is certain


def test_a_note_is_quoted_and_one_without_a_claim_refused(place, tmp_path):
    tmp_path.joinpath("notes.toml").write_text('mt-oc-over-uc = "Tried: two seeds."\n', "utf-8")
    report.write_report(place / "figures", tmp_path)
    assert "\nTried: two seeds.\n" in (tmp_path / "README.md").read_text("utf-8")
    tmp_path.joinpath("notes.toml").write_text('mt-over-uc = "No such claim."\n', "utf-8")
    with pytest.raises(ConfigError, match="mt-over-uc"):
        report.write_report(place / "figures", tmp_path)
    with pytest.raises(DataError, match="expected results of a study"):
        report.write_report(tmp_path / "nothing", tmp_path)


@pytest.mark.parametrize("name", study_names())
def test_every_claim_about_a_shipped_study_can_be_measured_in_it(name):
    study = load_study(name)
    measures = [measure for claim in claims.claims_of(name, ["outcome"]) for measure in claim.measures]
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
    assert [row["claim"] for row in rows if row["goal"] and row["seeds"] < 3] == []
    readme = tmp_path / "top.md"
    readme.write_bytes(report.README.read_bytes())
    again = tmp_path / "results"
    again.mkdir()
    (again / report.NOTES_FILE).write_bytes((report.FOLDER / report.NOTES_FILE).read_bytes())
    assert report.write_report(FOLDER, again, readme) == rows
    assert readme.read_text("utf-8") == report.README.read_text("utf-8")
    pages = {path.name: path.read_text("utf-8") for path in again.glob("*.md")}
    assert pages == {path.name: path.read_text("utf-8") for path in report.FOLDER.glob("*.md")}


def overview_of(readme: str) -> list[str]:
    """The rows of the report's first table, without its header."""
    section = readme.partition("## Overview\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


def check_rows(rows: list[dict]) -> None:
    assert rows
    for row in rows:
        assert set(row) == ROW
        assert row["seeds"] >= 1
        assert row["command"].startswith("python -m benchmarks.quality run ")
        if row["baseline_value"] is None:
            assert row["ratio"] is row["ci95"] is None
        if row["ratio"] is not None:  # both are rounded to six digits
            assert row["ratio"] == pytest.approx(row["value"] / row["baseline_value"], rel=1e-4)
        if row["ci95"] is not None and None not in row["ci95"]:
            assert row["ci95"][0] <= row["ratio"] <= row["ci95"][1]
        assert (row["goal"] is None) <= (row["reached"] is None)
