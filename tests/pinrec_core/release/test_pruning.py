"""Old releases go by rule, and what is needed stays."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pinrec_core.errors import ConfigError, ReleaseError
from pinrec_core.files.held_folder import holding
from pinrec_core.release.current import point_current
from pinrec_core.release.in_use import release_in_use, using_release
from pinrec_core.release.manifest import FILES
from pinrec_core.release.pruning import plan_pruning, prune

SERVER = """
import sys
from pathlib import Path
from pinrec_core.release.in_use import using_release
with using_release(Path(sys.argv[1])):
    print("serving", flush=True)
    sys.stdin.read()
"""


def left(releases: Path) -> list[str]:
    return sorted(path.name for path in releases.iterdir() if path.is_dir())


def test_the_newest_stay_and_so_do_the_current_one_and_the_one_before_it(copies):
    releases = copies("abcdef")
    point_current(releases, "b", by="publish")  # now a rollback leads to f
    planned = plan_pruning(releases, keep=2)
    assert [folder.name for folder in planned.releases] == ["d", "c", "a"]
    assert planned.kept == {"f": "a rollback leads to it", "e": "one of the 2 newest", "b": "current"}
    assert planned.bytes > 0
    assert left(releases) == list("abcdef")
    assert prune(releases, keep=2).releases == planned.releases
    assert left(releases) == ["b", "e", "f"]
    assert prune(releases, keep=2).folders == []


def test_a_release_that_another_process_serves_stays_until_that_is_killed(copies):
    releases = copies("abcd")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, releases / "a"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout.readline() == b"serving\n"
    assert release_in_use(releases / "a")
    assert prune(releases, keep=1).kept["a"] == "in use"
    assert left(releases) == ["a", "c", "d"]
    server.kill()
    server.communicate()
    prune(releases, keep=1)
    assert left(releases) == ["c", "d"]


def test_only_what_is_old_enough_goes(copies):
    releases = copies("abcde")
    planned = prune(releases, keep=1, older_than=datetime.timedelta(days=2.5))
    assert left(releases) == ["c", "d", "e"]
    assert planned.kept["c"] == "younger than 2.5 days"


def test_programs_and_unfinished_folders_go_with_them(copies):
    releases = copies("abc")
    unfinished, built = releases / ".x-building-0123456789ab", releases / ".y-building-0123456789ab"
    in_programs = releases / "programs" / "c" / ".fit-building-0123456789ab"
    for name in ("a", "c", "gone"):
        (releases / "programs" / name / "fit").mkdir(parents=True)
    for folder in (unfinished, built, in_programs):
        folder.mkdir()
        (folder / "file").write_text("half")
    with holding(built):  # somebody is at it
        prune(releases, keep=1)
    assert left(releases) == [".y-building-0123456789ab", "b", "c", "programs"]
    assert left(releases / "programs") == ["c"]
    assert left(releases / "programs" / "c") == ["fit"]


def test_what_is_no_whole_release_is_left_to_a_person(copies):
    releases = copies("abcd")
    (releases / "a" / FILES["index"]).unlink()
    (releases / "notes").mkdir()
    kept = prune(releases, keep=1).kept
    assert left(releases) == ["a", "c", "d", "notes"]
    assert "None bytes, expected" in kept["a"]
    assert kept["notes"].endswith("not a release, manifest.json is missing")


def test_a_release_that_goes_is_never_seen_in_part(copies, monkeypatch):
    """Killed while it removes, the command leaves no folder with a release's name, and the next one tidies up."""
    releases = copies("abc")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(releases, keep=1)
    assert [name for name in left(releases) if not name.startswith(".")] == ["b", "c"]
    assert len(left(releases)) == 3
    prune(releases, keep=1)
    assert left(releases) == ["b", "c"]


def test_a_rule_that_keeps_nothing_is_refused(copies):
    with pytest.raises(ConfigError, match="keep=0: expected a number of at least 1"):
        plan_pruning(copies("a"), keep=0)
    with pytest.raises(ReleaseError, match="releases='nowhere': expected a folder of releases"):
        plan_pruning(Path("nowhere"), keep=1)


def test_a_release_that_is_gone_cannot_be_used(copies):
    releases = copies("a", pointed=False)
    with using_release(releases / "a"), using_release(releases / "a"):
        assert os.listdir(releases / "a")
    assert not release_in_use(releases / "a")
    with pytest.raises(ReleaseError, match="there is none any more"), using_release(releases / "b"):
        pass
