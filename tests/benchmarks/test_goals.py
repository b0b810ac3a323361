"""The goals are held against results: each is reached, not reached, or open with its reason."""

from __future__ import annotations

import json

import pytest

from benchmarks import goals
from benchmarks.goals import Goal, collect, field, write
from benchmarks.report import RESULTS
from pinrec_core.errors import ConfigError

CARD = {"cpu": "a processor", "gpu": None, "cores": 2, "load_average": [0.1, 0.2]}
ROWS = [{"B": 1, "what": "fast", "ratio": 0.3}, {"B": 8, "what": "fast", "ratio": 0.4}]


def ratio(B: int):
    return field("ratio", B=B, what="fast")


@pytest.fixture
def results(tmp_path, monkeypatch):
    (tmp_path / "program-here.json").write_text(json.dumps({"machine": CARD, "rows": ROWS}))
    wanted = (
        *(Goal(goal="speed", case=f"batch {B}", target=0.35, result="program", value=ratio(B)) for B in (1, 8)),
        Goal(goal="more", case="", target=0.35, at_most=False, result="program", value=ratio(8)),
        Goal(goal="another machine", case="", target=1, result="elsewhere", value=ratio(1)),
        Goal(goal="impossible", case="", target=1, missing="no such device"),
    )
    monkeypatch.setattr(goals, "GOALS", wanted)
    return tmp_path


def test_a_goal_is_reached_missed_or_open(results):
    lines = collect(results, "here")
    assert [line.reached for line in lines] == [True, False, True, None, None]
    assert [line.value for line in lines[:2]] == [0.3, 0.4]
    assert lines[0].target == "<= 0.35"
    assert lines[2].target == ">= 0.35"
    assert lines[0].machine == "a processor, 2 cores, load 0.1"
    assert lines[4].command == "no such device"


def test_a_gpu_is_another_machine_than_the_one_that_collects(results, monkeypatch):
    wanted = Goal(goal="on a GPU", case="", target=1, result="gpu", value=ratio(1), missing="no GPU was at hand")
    monkeypatch.setattr(goals, "GOALS", (wanted,))
    (line,) = collect(results, "here")
    assert (line.value, line.reached, line.command) == (None, None, "no GPU was at hand")
    card = CARD | {"gpu": "a GPU"}
    (results / "gpu-a-gpu-2-cores.json").write_text(json.dumps({"machine": card, "rows": ROWS}))
    (line,) = collect(results, "here")
    assert (line.value, line.reached, line.command) == (0.3, True, "python -m benchmarks gpu")
    assert line.machine == "a GPU, 2 cores, load 0.1"


def test_the_table_and_the_file_say_the_same_and_leave_the_page_alone(results):
    page, runbook = results / "page.md", results / "runbook.md"
    for path in (page, runbook):
        path.write_text(f"before\n{goals.START}\nold\n{goals.END}\nafter\n")
    of_operation = Goal(goal="kills", case="lost", target=0, missing="no such drill", page="operate")
    write(
        [*collect(results, "here"), goals._reached(of_operation, results, "here")],
        results,
        {"benchmarks": page, "operate": runbook},
    )
    for path in (page, runbook):
        assert path.read_text().startswith("before\n")
        assert path.read_text().endswith("\nafter\n")
        assert "old" not in path.read_text()
    text = page.read_text()
    assert "kills" not in text
    assert "| kills | lost | <= 0 |  | open | no such drill |" in runbook.read_text()
    assert f"| speed | batch 8 | <= 0.35 | 0.4 | **no** | `{goals.COMMANDS['program']}` |" in text
    assert "| impossible |  | <= 1 |  | open | no such device |" in text
    assert [line["reached"] for line in json.loads((results / "goals.json").read_text())] == [
        True,
        False,
        True,
        None,
        None,
        None,
    ]


def test_results_without_the_row_of_a_goal_are_refused(results):
    (results / "program-here.json").write_text(json.dumps({"machine": CARD, "rows": ROWS[:1]}))
    with pytest.raises(ConfigError, match=r"0 rows of results with {'B': 8, 'what': 'fast'}: expected one"):
        collect(results, "here")


def test_every_goal_finds_its_row_in_the_committed_results():
    """Whoever renames a row of a benchmark has to rename it in its goal."""
    committed = json.loads((RESULTS / "goals.json").read_text("utf-8"))
    assert [line["goal"] for line in committed] == [goal.goal for goal in goals.GOALS]
    slugs = {path.stem.partition("-")[2] for path in RESULTS.glob("program-*.json")}
    for slug in slugs:
        assert len(collect(RESULTS, slug)) == len(goals.GOALS)
