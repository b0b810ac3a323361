"""An output folder appears whole or not at all."""

from __future__ import annotations

import pytest

from pinrec_core.errors import DataError
from pinrec_core.files.output_folder import output_folder


def is_kept(folder):
    return (folder / "mark").is_file()


def fill(out, content, *, overwrite):
    with output_folder(out, overwrite=overwrite, is_replaceable=is_kept, kind="thing") as folder:
        assert not (out / "mark").is_file() or (out / "mark").read_text() != content
        (folder / "mark").write_text(content)


def test_a_folder_takes_its_place_and_another_replaces_it(tmp_path):
    out = tmp_path / "deep" / "out"
    fill(out, "first", overwrite=False)
    fill(out, "second", overwrite=True)
    assert (out / "mark").read_text() == "second"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_a_failure_leaves_what_was_there(tmp_path):
    out = tmp_path / "out"
    fill(out, "first", overwrite=False)
    with pytest.raises(UnicodeEncodeError):
        fill(out, "\ud800", overwrite=True)
    assert (out / "mark").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_must_not_be_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    for overwrite, expected in (
        (False, "expected a path that does not exist"),
        (True, "expected a thing to overwrite"),
    ):
        with pytest.raises(DataError, match=expected):
            fill(tmp_path / "home", "x", overwrite=overwrite)
    assert (tmp_path / "home" / "letter").read_text() == "dear"


def test_a_place_where_nothing_can_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/out.*expected a place for a new folder"):
        fill(tmp_path / "file" / "out", "x", overwrite=False)
