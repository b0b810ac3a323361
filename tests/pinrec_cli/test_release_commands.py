"""``pinrec release``: the commands on real releases, what they print, and how they end."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from pinrec_cli.main import app, main
from pinrec_core.release.current import current_id
from pinrec_core.release.manifest import FILES, MANIFEST_FILE
from tests.pinrec_core.release.conftest import edit_manifest


def pinrec(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["release", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def document(*arguments: object) -> dict:
    return json.loads(pinrec(*arguments, "--json"))


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that fails: its exit code, and the last line of stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["pinrec", "release", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().err.strip().splitlines()[-1]

    return call


def test_the_help_lists_the_commands_and_make_can_be_left_out():
    shown = pinrec("--help")
    for name in ("make", "list", "show", "verify", "publish", "rollback", "extend", "prune"):
        assert f" {name} " in shown
    assert pinrec("runs/any", "--help") == pinrec("make", "--help")
    assert pinrec("--releases", "any", "--help") == pinrec("make", "--help")


def test_a_run_that_is_named_like_a_command_is_released_all_the_same(run, tmp_path, monkeypatch):
    shutil.copytree(run.folder, tmp_path / "list")
    monkeypatch.chdir(tmp_path)
    made = document("./list", "--targets", 4, "--no-evaluate")
    assert current_id(tmp_path / "releases") == made["release"]


def test_a_mistyped_command_says_what_was_expected(refused):
    code, line = refused("lsit")
    assert code == 3
    assert line.endswith("lsit: expected a run folder made by `pinrec train`, or a command of `pinrec release --help`")


def test_list_names_the_current_release_and_what_is_damaged_or_strange(copies):
    releases = copies("abc")
    (releases / "b" / FILES["index"]).write_bytes(b"")
    edit_manifest(releases / "a", extends="c")
    (releases / "notes").mkdir()
    (releases / "programs" / "a" / "fit").mkdir(parents=True)
    (releases / "programs" / "a" / "fit" / "program.json").write_text("{}")
    listed = document("list", "--releases", releases)
    assert listed["current"] == "c"
    by_id = {one["release"]: one for one in listed["releases"]}
    assert list(by_id)[:2] == ["c", "a"]  # newest first, what cannot serve last
    assert [name for name, one in by_id.items() if one["current"]] == ["c"]
    assert by_id["c"]["figures"] == {"served_recall": 0.5}
    assert (by_id["c"]["items"], by_id["c"]["index_recall"], by_id["c"]["variant"]) == (120, 1.0, "mt_oc")
    assert 0 <= by_id["c"]["age_seconds"] < 86_400 < by_id["a"]["age_seconds"]
    assert (by_id["a"]["extends"], by_id["a"]["local_programs"]) == ("c", 1)
    assert "index.faiss: 0 bytes, expected" in by_id["b"]["problem"]
    assert by_id["notes"]["problem"].endswith("not a release, manifest.json is missing")
    shown = pinrec("list", "--releases", releases)
    assert "index.faiss: 0 bytes, expected" in shown.replace("\n", "")
    assert any("c" in line and "current" in line for line in shown.splitlines())


def test_show_has_everything_of_the_manifest(copies):
    releases = copies("a")
    manifest = json.loads((releases / "a" / MANIFEST_FILE).read_text())
    shown = document("show", "a", "--releases", releases)
    assert shown["manifest"] == manifest
    assert shown["memory_bytes"] == sum(part["bytes"] for part in manifest["parts"].values())
    assert shown["on_this_machine"] == []
    text = pinrec("show", releases / "a")
    assert all(part["sha256"][:12] in text for part in manifest["parts"].values())
    assert "calibration.recall_target" in text
    assert "it serves on this machine" in text


def test_verify_ends_with_4_where_a_file_was_changed(copies, refused):
    releases = copies("a")
    said = document("verify", "a", "--releases", releases, "--recall")
    assert said == {"release": "a", "parts": 5, "recall": 1.0, "warnings": []}
    path = releases / "a" / FILES["item_vectors"]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    code, line = refused("verify", releases / "a")
    assert code == 4
    assert "item_vectors.npy: sha256" in line
    assert refused("verify", "b", "--releases", releases)[1].endswith(
        f"release='b': expected a release folder, or the id of a release in {releases}"
    )


def test_publish_rollback_and_prune(copies, refused):
    releases = copies("abcd")
    assert document("publish", "a", "--releases", releases) == {
        "release": "a", "before": "d", "remarks": ["served_recall 0.5000, 0.5000 for d"]
    }  # fmt: skip
    assert document("rollback", "--releases", releases) == {"release": "d", "before": "a"}
    edit_manifest(releases / "a", metrics={"protocol": "held-out", "k": 10, "num_items": 100, "served_recall": 0.1})
    code, line = refused("publish", "a", "--releases", releases)
    assert (code, "served_recall=0.1000, 0.5000 for d" in line) == (4, True)
    planned = document("prune", "--releases", releases, "--keep", 1, "--dry-run")
    assert planned["removed"] == ["b", "a"]
    assert (releases / "a").is_dir()
    assert document("prune", "--releases", releases, "--keep", 1) == planned | {"dry_run": False}
    assert sorted(path.name for path in releases.iterdir() if path.is_dir()) == ["c", "d"]
    assert "kept c: a rollback leads to it" in pinrec("prune", "--releases", releases, "--keep", 1)


def test_extend_takes_the_catalogue_of_another_dataset(copies, dataset, refused, tmp_path):
    releases = copies("a")
    made = document("extend", "a", "--dataset", dataset, "--releases", releases, "--targets", 4)
    assert (made["extends"], made["new_items"], made["gone_items"]) == ("a", 0, 0)
    assert current_id(releases) == made["release"]
    manifest = json.loads((releases / made["release"] / MANIFEST_FILE).read_text())
    assert manifest["metrics"]["protocol"] == "held-out"
    assert manifest["metrics"]["served_recall"] > 0
    assert manifest["calibration"]["calibrated_on"]["protocol"] == "held-out-validation"
    code, line = refused("extend", "a", "--dataset", tmp_path, "--releases", releases)
    assert (code, "expected a prepared dataset's manifest" in line) == (3, True)
