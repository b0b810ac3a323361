"""What to do with a release that was made just now."""

from __future__ import annotations

from pathlib import Path

from pinrec_cli.console import stderr


def print_next(release_id: str, *, releases: Path, dataset: Path, current: bool) -> None:
    """Print the commands that come next."""
    if current:
        stderr.print(f"next: pinrec serve --releases {releases} --signals {dataset}/signals", soft_wrap=True)
        stderr.print(
            "  or, to the `pinrec serve` that runs: kill -HUP PID; back again: pinrec release rollback "
            f"--releases {releases}", soft_wrap=True,
        )  # fmt: skip
    else:
        stderr.print(f"next: pinrec release publish {release_id} --releases {releases}", soft_wrap=True)
