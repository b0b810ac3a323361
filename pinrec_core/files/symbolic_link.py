"""Symbolic links that are there at every moment: the old one or the new one, also when the process is killed.

A link can also take the place of a folder of files, in one step where the kernel can exchange two names. Elsewhere the
folder is renamed away first; a process that is killed between the two renames leaves no link, and the next call puts it
there. This module does not know what is linked.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path

from pinrec_core.files.on_disk import sync_folder
from pinrec_core.files.output_folder import exchange

_BESIDE = re.compile(r"\..+-removing-[0-9a-f]{12}")
"""What lies beside a link while it is replaced. ``held_folder.left_overs`` finds the folders of that name."""


def point(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target``, whatever is there now, and force it to the disk.

    Only one process at a time may do this in a folder. Raises ``OSError`` when the link cannot be made.
    """
    if link.is_symlink() and os.readlink(link) == target:
        return
    beside = _name_beside(link)
    beside.symlink_to(target)
    try:
        if link.is_dir() and not link.is_symlink():
            if not exchange(beside, link):
                link.rename(away := _name_beside(link))
                beside.rename(link)
                away.rename(beside)
            sync_folder(link.parent)
            shutil.rmtree(beside)
        else:
            beside.rename(link)
            sync_folder(link.parent)
    finally:
        if beside.is_symlink():
            beside.unlink()


def remove_left_over_links(folder: Path) -> list[Path]:
    """Remove the links that killed calls of ``point`` left in ``folder``. Not while another call runs there."""
    links = [path for path in folder.iterdir() if _BESIDE.fullmatch(path.name) and path.is_symlink()]
    for link in links:
        link.unlink(missing_ok=True)
    return links


def _name_beside(link: Path) -> Path:
    return link.with_name(f".{link.name}-removing-{uuid.uuid4().hex[:12]}")
