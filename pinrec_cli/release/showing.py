"""``pinrec release list``, ``show`` and ``verify``: what there is, and whether it is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from pinrec_cli.release.options import RELEASES, Json, ReleaseName, Releases


def list_(releases: Releases = RELEASES, json_: Json = False) -> None:
    """List the releases of a folder, newest first: which one is current, figures, size, and what is damaged.

    Figures are those of the held-out users that the release was judged on when it was made.

    pinrec release list --releases releases

    pinrec release list --releases releases --json | jq '.releases[] | select(.current).release'
    """
    from pinrec_cli.console import print_json, stdout
    from pinrec_cli.release.tables import described, releases_table
    from pinrec_core.release.current import current_id
    from pinrec_core.release.inventory import list_releases

    listed = list_releases(releases)
    if json_:
        print_json({"current": current_id(releases), "releases": [described(one) for one in listed]})
        return
    stdout.print(releases_table(listed, releases))
    for one in listed:
        if one.problem:
            stdout.print(one.problem, soft_wrap=True, markup=False)
    if listed and not any(one.current for one in listed):
        named = current_id(releases)
        stdout.print(f"the current release is {named}, which is not here" if named else "no release is current")


def show(release: ReleaseName, releases: Releases = RELEASES, json_: Json = False) -> None:
    """Show everything that the manifest of a release says, and how this machine suits it.

    pinrec release show 20260101T120000-1a2b3c4d --releases releases
    """
    from pinrec_cli.console import print_json, stdout
    from pinrec_cli.release.tables import manifest_table, parts_table
    from pinrec_core.release.inventory import find_release
    from pinrec_core.release.manifest import open_manifest
    from pinrec_core.release.portability import check_on_this_machine, memory_needed
    from pinrec_core.validation import to_plain

    folder = find_release(release, releases)
    manifest = open_manifest(folder)
    findings, needed = check_on_this_machine(folder), memory_needed(manifest)
    if json_:
        here = [{"severity": finding.severity.value, "text": finding.text} for finding in findings]
        print_json({"manifest": to_plain(manifest), "memory_bytes": needed, "on_this_machine": here})
        return
    stdout.print(manifest_table(manifest))
    stdout.print(parts_table(manifest))
    stdout.print(f"memory: {needed / 2**20:,.0f} MiB of parts, twice that during a swap, and the processes themselves")
    for finding in findings:
        stdout.print(str(finding), soft_wrap=True, markup=False)
    if not findings:
        stdout.print("it serves on this machine as it did where it was made")


def verify(
    release: ReleaseName,
    releases: Releases = RELEASES,
    recall: Annotated[
        bool, typer.Option("--recall", help="Measure the recall of the index again, against exact search.")
    ] = False,
    json_: Json = False,
) -> None:
    """Check a release: manifest, checksums, whether its parts belong together, and whether it serves on this machine.

    The exit code is 0 for a release that can serve and 4 for one that cannot. --recall searches for a sample of the
    catalogue's own items, which are easier to find than what a model generates: less than the recall in the manifest
    means that the index is not the one that was calibrated.

    pinrec release verify 20260101T120000-1a2b3c4d --releases releases --recall
    """
    from pinrec_cli.console import print_json, stdout, steps_progress
    from pinrec_core.release.checking import check_measured_recall
    from pinrec_core.release.format import Release
    from pinrec_core.release.inventory import find_release
    from pinrec_core.release.portability import check_serves_here

    opened = Release.open(find_release(release, releases))
    measured = None
    with steps_progress("verifying") as report:
        report("files and whether they belong together")
        opened.verify()
        if recall:
            report("the recall of the index")
            measured = check_measured_recall(opened)
    findings = check_serves_here(opened.folder)
    manifest = opened.manifest
    if json_:
        document = {"release": manifest.release_id, "parts": len(manifest.parts), "recall": measured}
        print_json(document | {"warnings": [finding.text for finding in findings]})
        return
    stdout.print(f"{manifest.release_id}: {len(manifest.parts)} parts are whole and belong together", soft_wrap=True)
    if measured is not None:
        calibration = manifest.calibration
        stdout.print(
            f"recall@{calibration.recall_depth} of sampled items {measured:.3f}; the manifest has "
            f"{calibration.recall:.3f} for generated queries, target {calibration.recall_target:g}", soft_wrap=True,
        )  # fmt: skip
    for finding in findings:
        stdout.print(str(finding), soft_wrap=True, markup=False)
