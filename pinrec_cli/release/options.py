"""Arguments that the commands of ``pinrec release`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Releases = Annotated[Path, typer.Option(help="Folder that holds the releases.")]
ReleaseName = Annotated[
    str, typer.Argument(help="A release: its id in RELEASES, or the path of its folder.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RELEASES = Path("releases")
