"""``pinrec tune`` with a made-up machine: what it refuses, and the file that it leaves. A real server is measured in
``tests/pinrec_serving/test_serve_command.py``."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pinrec_cli.main import app, main
from pinrec_cli.tuning_runs import measuring
from pinrec_core.errors import ServerError
from pinrec_core.release.current import current_release
from pinrec_core.release.format import Release
from pinrec_core.release.manifest import HeldOut, Part
from pinrec_core.release.programs import FILE, fit_of_this_machine, fitting_program
from pinrec_core.release.publishing import publish
from pinrec_serving.installation import PRIVATE_PORTS, TritonSource
from pinrec_serving.model_repository import default_templates
from pinrec_serving.runtime import Endpoint
from pinrec_serving.tuning import TUNING_FILE, Machine, Setting, load_tuning

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def releases(serving, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("releases")
    held_out = HeldOut(evaluation_share=0.3, held_out_last=0)
    publish(serving, dataset=dataset, releases=folder, training=held_out, metrics={}, now=NOW)
    return folder


def test_what_is_best_is_written_where_serve_looks_for_it(releases, dataset, monkeypatch):
    """On this machine a second generator doubles what is served, and nothing else matters."""
    monkeypatch.setattr("pinrec_serving.tuning.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(
        "pinrec_cli.tuning_runs.measuring",
        lambda *_, **__: lambda setting: 100.0 * min(setting.stage("generator").instances, 2),
    )
    arguments = ["tune", "--releases", str(releases), "--signals", str(dataset / "signals"), "--clients", "4"]
    done = CliRunner().invoke(app, [*arguments, "--no-compile", "--json"])
    assert done.exit_code == 0, done.output
    written = load_tuning(releases / TUNING_FILE)
    assert written.setting.instances == {"generator": 2}
    assert (written.default_requests_per_second, written.requests_per_second) == (100.0, 200.0)
    assert (written.machine, written.clients) == (Machine.here(), 4)
    assert json.loads(done.stdout.splitlines()[-1])["setting"]["stages"] == {
        "generator": {"instances": 2, "queue_delay_us": 0}
    }


def test_a_setting_that_does_not_serve_is_a_warning_and_what_is_better_outlives_an_interrupt(
    releases, dataset, tmp_path, monkeypatch, capsys
):
    """Two generators serve more, two of another stage find no memory, and then somebody presses Ctrl-C."""

    def measure(setting: Setting) -> float:
        if setting.stage("faiss_retrieval").instances == 2:
            raise ServerError("faiss_retrieval cannot be loaded: [/no memory]")
        if setting.stage("signal_fetch").instances == 2:
            raise KeyboardInterrupt
        return 100.0 * setting.stage("generator").instances

    monkeypatch.setattr("pinrec_serving.tuning.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("pinrec_cli.tuning_runs.measuring", lambda *_, **__: measure)
    out = tmp_path / TUNING_FILE
    arguments = ["--releases", str(releases), "--signals", str(dataset / "signals"), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["pinrec", "tune", *arguments, "--no-compile"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 130, said
    assert "faiss_retrieval × 2: it does not serve: faiss_retrieval cannot be loaded: [/no memory]" in said
    assert (load_tuning(out).setting.instances, load_tuning(out).requests_per_second) == ({"generator": 2}, 200.0)


def test_each_measurement_has_ports_of_its_own_that_no_connection_is_given(releases, dataset, monkeypatch):
    seen: list[int] = []

    class Server:
        def __init__(self, *, endpoint: Endpoint, **_: object) -> None:
            seen.extend(port for _, _, port in endpoint.ports)
            raise ServerError("not now")

    monkeypatch.setattr("pinrec_cli.tuning_runs.TritonServer", Server)
    measure = measuring(
        Release.open(current_release(releases)), dataset / "signals", templates=default_templates(), device="cpu",
        clients=1, seconds=0.1, source=TritonSource.AUTO,
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(ServerError, match="not now"):
            measure(Setting(threads=1))
    assert len(seen) == 6
    assert all(port in range(*PRIVATE_PORTS) for port in seen)
    assert seen[:3] != seen[3:]


@pytest.mark.parametrize("helps", [True, False])
def test_a_program_is_compiled_where_the_release_has_none_and_kept_where_it_serves_more(
    releases, dataset, tmp_path, monkeypatch, helps
):
    folder = shutil.copytree(releases, tmp_path / "releases")
    before = sorted(current_release(folder).iterdir())

    def add(_: object, into: Path) -> Part:
        (into / FILE).write_bytes(b"a program")
        return Part.of(into, FILE, attributes=fit_of_this_machine())

    monkeypatch.setattr("pinrec_core.release.compiling.add_program", add)
    monkeypatch.setattr("pinrec_serving.tuning.sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(
        "pinrec_cli.tuning_runs.measuring",
        lambda *_, **__: lambda setting: 200.0 if setting.compiled == helps else 100.0,
    )
    done = CliRunner().invoke(app, ["tune", "--releases", str(folder), "--signals", str(dataset / "signals")])
    assert done.exit_code == 0, done.output
    written = load_tuning(folder / TUNING_FILE)
    assert written.setting.compiled == helps
    assert written.default_requests_per_second == (100.0 if helps else 200.0)  # without the program
    assert sorted(current_release(folder).iterdir()) == before
    assert fitting_program(Release.open(current_release(folder))) is not None


def test_without_a_compiler_the_rest_is_tuned_after_a_warning(releases, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pinrec_cli.tuning_runs.measuring", lambda *_, **__: lambda _: 100.0)
    arguments = ["tune", "--releases", str(releases), "--signals", str(dataset / "signals")]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / TUNING_FILE)])
    assert done.exit_code == 0, done.output
    assert "warning: the generator is measured uncompiled" in done.output
    assert load_tuning(tmp_path / TUNING_FILE).setting.compiled  # a program that comes later may run


def test_what_cannot_be_tuned_is_said_in_a_sentence(releases, tmp_path, monkeypatch, capsys):
    for arguments, code, message in [
        ((), 2, "expected exactly one of --release, --releases"),
        (("--releases", tmp_path), 4, "expected the id of a release"),
        (("--releases", releases, "--triton", "moon"), 2, "--triton='moon': expected one of"),
        (
            ("--releases", releases, "--out", tmp_path / "no" / "where.toml"),
            2,
            "expected a file in a folder that exists",
        ),
        (("--releases", releases), 3, "expected part-*.parquet files"),
    ]:
        (tmp_path / "signals" / "sequences").mkdir(parents=True, exist_ok=True)
        words = ["pinrec", "tune", "--no-compile", "--signals", tmp_path / "signals", *arguments]
        monkeypatch.setattr("sys.argv", [str(word) for word in words])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err
        assert end.value.code == code, said
        assert message in " ".join(said.split())
        assert "Traceback" not in said
