"""``pinrec tune`` finds how many processes and threads suit this machine, for ``pinrec serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    signals: Annotated[
        Path, typer.Option(help="Signals folder of a prepared dataset (DATASET/signals).", show_default=False)
    ],
    release: Annotated[Path | None, typer.Option(help="The release folder to measure.", show_default=False)] = None,
    releases: Annotated[
        Path | None, typer.Option(help="A folder of releases instead: its current one.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write.", show_default="tuning.toml in RELEASES, or beside RELEASE"),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Time for the search. What was best by then is written.")
    ] = 10.0,
    clients: Annotated[
        int, typer.Option(min=1, max=256, help="Clients that ask at the same time: the load to tune for.")
    ] = 16,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time under load for each setting.")] = 4.0,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            help="Where the release has no compiled generator for this machine, compile one first, which takes a "
            "minute and a C++ compiler.",
        ),
    ] = True,
    device: Annotated[str, typer.Option(help="Where the generator runs, as for serve: cpu, cuda, cuda:1.")] = "cpu",
    triton: Annotated[
        str, typer.Option(help="Which Triton: image (/opt/tritonserver), wheel (nvidia-pytriton), or auto.")
    ] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find how many threads and processes of each stage serve most requests per second on this machine.

    Each setting is measured with the real server: it starts, CLIENTS clients ask again as soon as they are answered, it
    stops. One thing is changed at a time (a compiled generator, threads, processes of a stage, how long a stage waits
    to fill a batch), and a change is kept where it serves 5% more, measured twice. A setting that cannot serve, as
    for want of memory, is named and left out. After Ctrl-C the file has what was better than the defaults by then. Run
    it while nothing else runs on the machine, and again after a release of another size.

    pinrec tune --releases releases --signals data/ml100k/signals

    A program that is compiled here lies in releases/programs, for this release and this machine; the release itself
    stays as it is.

    It measures Triton itself, without the front that `pinrec serve` puts before it. More CLIENTS than --max-in-flight
    there would be refused.

    `pinrec serve --releases releases` then takes releases/tuning.toml by itself. What --threads or --instances say
    counts more than the file, and on a machine with another processor or other cores the file is ignored.
    """
    from pinrec_cli.console import print_json, stderr, stdout
    from pinrec_cli.tuning_runs import measuring
    from pinrec_core.errors import ConfigError, DataError, ReleaseError, StorageError, require
    from pinrec_core.release.current import current_release
    from pinrec_core.release.format import Release
    from pinrec_core.release.programs import fitting_program
    from pinrec_core.validation import to_plain
    from pinrec_serving.installation import TritonSource
    from pinrec_serving.model_repository import default_templates
    from pinrec_serving.options import default_threads
    from pinrec_serving.tuning import TUNING_FILE, Found, Machine, Setting, Tuning, save_tuning, search

    if (release is None) == (releases is None):
        raise ConfigError("expected exactly one of --release, --releases")
    require(triton in set(TritonSource), "--triton", triton, f"one of {', '.join(TritonSource)}")
    folder = release if release is not None else current_release(releases or Path())
    target = out or (releases or folder.resolve().parent) / TUNING_FILE
    require(target.parent.is_dir(), "--out", str(target), "a file in a folder that exists", error=ConfigError)
    opened = Release.open(folder)
    opened.verify()
    made = False
    if compile_ and device == "cpu" and fitting_program(opened) is None:
        from pinrec_core.release.compiling import compile_for_this_machine

        stderr.print("compiling the generator for this machine", soft_wrap=True)
        try:
            compile_for_this_machine(opened)
            made = True
        except (ConfigError, DataError, ReleaseError, StorageError) as error:
            stderr.print(f"warning: the generator is measured uncompiled: {error}", soft_wrap=True)
    machine = Machine.here()
    measure = measuring(
        opened, signals, templates=default_templates(), device=device, clients=clients, seconds=seconds,
        source=TritonSource(triton),
    )  # fmt: skip

    def save(found: Found) -> Tuning:
        tuning = Tuning(
            machine=machine,
            release=opened.manifest.release_id,
            clients=clients,
            requests_per_second=found.rate,
            default_requests_per_second=found.first_rate,
            setting=found.setting,
        )
        save_tuning(tuning, target)
        return tuning

    stderr.print(f"{machine}: {clients} clients, at most {minutes:g} minutes", soft_wrap=True)
    found = search(
        # A program that was made just now is no part of what has been served so far.
        Setting(threads=default_threads(), compiled=not made), machine.cores, measure, seconds=60 * minutes,
        program=device == "cpu" and fitting_program(opened) is not None,
        report=lambda setting, rate: stderr.print(f"{rate:8.1f} requests/s  {setting}", soft_wrap=True),
        failed=lambda setting, error: stderr.print(
            f"warning: {setting}: it does not serve: {error}", soft_wrap=True
        ),
        better=save,
    )  # fmt: skip
    tuning = save(found)
    if json_:
        print_json({**to_plain(tuning), "file": str(target), "complete": found.complete})
        return
    if not found.complete:
        stdout.print("the time was up before everything was tried; --minutes gives more", soft_wrap=True)
    gain = found.rate / found.first_rate
    stdout.print(f"{found.setting}: {found.rate:.1f} requests/s, {gain:.2f} × the defaults", soft_wrap=True)
    stdout.print(f"written to {target}; `pinrec serve` reads it", soft_wrap=True)
