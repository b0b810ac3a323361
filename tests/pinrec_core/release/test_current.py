"""The pointer and its history: every move is there, and going back follows it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pytest

from pinrec_core.errors import ReleaseError
from pinrec_core.release.current import (
    HISTORY_FILE,
    PointerMove,
    current_id,
    point_current,
    previous_release,
    read_history,
)


def moves(*steps: tuple[str | None, str, str]) -> list[PointerMove]:
    return [PointerMove(at="", previous=before, current=after, by=by) for before, after, by in steps]


def test_every_move_is_written_down(tmp_path):
    point_current(tmp_path, "a")
    point_current(tmp_path, "b", by="publish")
    point_current(tmp_path, "a", by="rollback")
    found = [(move.previous, move.current, move.by) for move in read_history(tmp_path)]
    assert found == [(None, "a", "make"), ("a", "b", "publish"), ("b", "a", "rollback")]
    assert current_id(tmp_path) == "a"
    assert sorted(os.listdir(tmp_path)) == ["current", HISTORY_FILE]
    with pytest.raises(ReleaseError, match=r"release_id=.\.\./c.: expected letters"):
        point_current(tmp_path, "../c")
    assert current_id(tmp_path) == "a"


@pytest.mark.parametrize(
    ("steps", "current", "previous"),
    [
        ([], "a", None),
        ([(None, "a", "make")], "a", None),
        ([(None, "a", "make"), ("a", "b", "make")], "b", "a"),
        ([(None, "a", "make"), ("a", "b", "make"), ("b", "b", "publish")], "b", "a"),
        # A second rollback goes back further, not forwards again.
        ([(None, "a", "make"), ("a", "b", "make"), ("b", "c", "make"), ("c", "b", "rollback")], "b", "a"),
        ([(None, "a", "make"), ("a", "b", "make"), ("b", "a", "rollback")], "a", None),
        # What was published again after a rollback is taken back to where it was published from.
        ([(None, "a", "make"), ("a", "b", "make"), ("b", "a", "rollback"), ("a", "b", "publish")], "b", "a"),
        ([(None, "a", "make"), ("a", "b", "make"), ("b", "a", "publish")], "a", "b"),
        # The line of a move that was not made: the process was killed before it moved the pointer.
        ([(None, "a", "make"), ("a", "b", "make"), ("b", "c", "make")], "b", "a"),
        ([(None, "a", "make"), ("a", "b", "make"), ("a", "c", "make")], "c", "a"),
        # A pointer that was moved by hand.
        ([("a", "b", "make"), ("x", "c", "make")], "c", "x"),
        ([("a", "b", "make")], "x", "b"),
        # An older version wrote no history.
        ([("a", "b", "publish")], "b", "a"),
    ],
)
def test_going_back_leads_to_what_was_current_before(steps, current, previous):
    assert previous_release(moves(*steps), current) == previous


def test_a_line_that_was_cut_short_costs_no_other(tmp_path):
    point_current(tmp_path, "a")
    with (tmp_path / HISTORY_FILE).open("a") as file:
        file.write('{"at": "2026-')
    point_current(tmp_path, "b")
    assert [move.current for move in read_history(tmp_path)] == ["a", "b"]
    assert previous_release(read_history(tmp_path), "b") == "a"


def test_processes_that_move_the_pointer_at_once_leave_one_line_each(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pinrec_core.release.current import point_current\n"
        "for i in range(25): point_current(Path(sys.argv[1]), f'{sys.argv[2]}{i}')"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, tmp_path, name]) for name in "pq"]
    assert [process.wait() for process in started] == [0, 0]
    lines = [json.loads(line) for line in (tmp_path / HISTORY_FILE).read_text().splitlines()]
    assert len(lines) == 50
    for before, after in itertools.pairwise(lines):
        assert after["previous"] == before["current"]
    assert current_id(tmp_path) == lines[-1]["current"]
