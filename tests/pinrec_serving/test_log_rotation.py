"""A log that another process holds open stays small, and the newest lines are never lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinrec_serving.log_rotation import rotate


def test_copies_move_up_and_the_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(b"%d" % number * 10)
            assert rotate(log, most_bytes=10, kept=3)
            assert log.read_bytes() == b""
        writer.write(b"5")
        assert not rotate(log, most_bytes=10, kept=3)
    assert {p.name: p.read_bytes()[:1] for p in tmp_path.iterdir()} == {
        "triton.log": b"5", "triton.log.1": b"4", "triton.log.2": b"3", "triton.log.3": b"2",
    }  # fmt: skip


def test_nothing_is_emptied_that_could_not_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "triton.log"
    log.write_bytes(b"x" * 10)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="space"):
        rotate(log, most_bytes=10)
    assert log.read_bytes() == b"x" * 10


def test_a_log_that_is_not_there_needs_no_rotation(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "front.log")
