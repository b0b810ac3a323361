"""Releases as tables and as JSON."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from pinrec_core.release.inventory import ListedRelease
from pinrec_core.release.manifest import ReleaseManifest
from pinrec_core.release.programs import PROGRAM
from pinrec_core.validation import to_plain


def described(one: ListedRelease) -> dict[str, Any]:
    """A listed release as a JSON document."""
    manifest = one.manifest
    document: dict[str, Any] = {
        "release": one.folder.name, "folder": str(one.folder), "current": one.current, "in_use": one.in_use,
        "bytes": one.bytes, "local_programs": one.local_programs, "problem": one.problem,
    }  # fmt: skip
    if manifest is None:
        return document
    program = manifest.parts.get(PROGRAM)
    return document | {
        "created_at": manifest.created_at,
        "age_seconds": None if one.created is None else int(_age(one.created).total_seconds()),
        "extends": manifest.extends,
        "dataset": manifest.dataset.name,
        "variant": manifest.model.variant.value,
        "items": manifest.dataset.num_items,
        "figures": dict([manifest.headline] if manifest.headline else []),
        "index_recall": manifest.calibration.recall,
        "parts": sorted(manifest.parts),
        "program": None if program is None else program.attributes,
    }


def releases_table(listed: Sequence[ListedRelease], releases: Path) -> Table:
    """One row per release. ``recall`` is what held-out users were served of what they did next, ``index`` is what the
    index finds of what exact search finds."""
    table = Table(title=f"{len(listed)} releases in {releases}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("release", no_wrap=True)
    for column in ("age", "items", "recall", "index", "MiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("model", "state"):
        table.add_column(column)
    for one in listed:
        name = f"[bold]{one.folder.name}[/]" if one.current else escape(one.folder.name)
        size, state = f"{one.bytes / 2**20:,.1f}", _state(one)
        if one.manifest is None:
            table.add_row(name, "", "", "", "", size, "", state)
            continue
        manifest = one.manifest
        headline = manifest.headline
        figure = "–" if headline is None else f"{headline[1]:.4f}" + ("" if headline[0] == "served_recall" else " ndcg")
        items, recall = f"{manifest.dataset.num_items:,}", f"{manifest.calibration.recall:.3f}"
        age = "?" if one.created is None else _short(_age(one.created))
        table.add_row(name, age, items, figure, recall, size, manifest.model.variant.value, state)
    return table


def manifest_table(manifest: ReleaseManifest) -> Table:
    """Everything in a manifest but its parts, one value per row."""
    table = Table(title=f"release {manifest.release_id}")
    table.add_column("field")
    table.add_column("value", overflow="fold")
    plain = to_plain(manifest)
    del plain["parts"]
    for name, value in _flat(plain):
        table.add_row(escape(name), escape(value))
    return table


def parts_table(manifest: ReleaseManifest) -> Table:
    """The parts of a release, one per row."""
    table = Table(title="parts")
    for column in ("part", "file", "MiB", "sha256", "attributes"):
        table.add_column(column, justify="right" if column == "MiB" else "left", overflow="fold")
    for name, part in manifest.parts.items():
        attributes = "\n".join(f"{key}: {value}" for key, value in part.attributes.items())
        size = f"{part.bytes / 2**20:,.2f}"
        table.add_row(escape(name), escape(part.file), size, part.sha256[:12], escape(attributes))
    return table


def _state(one: ListedRelease) -> str:
    manifest = one.manifest
    words = {
        "current": one.current,
        "in use": one.in_use,
        "not a release": one.foreign,
        "damaged": one.problem is not None and not one.foreign,
        "extended": manifest is not None and manifest.extends is not None,
        "compiled": one.local_programs > 0 or (manifest is not None and PROGRAM in manifest.parts),
    }
    return ", ".join(word for word, holds in words.items() if holds)


def _age(created: datetime.datetime) -> datetime.timedelta:
    return datetime.datetime.now(datetime.UTC) - created


def _short(age: datetime.timedelta) -> str:
    if age.days:
        return f"{age.days} d"
    hours, rest = divmod(int(age.total_seconds()), 3600)
    return f"{hours} h" if hours else f"{rest // 60} min"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """A JSON document as names with their places, and values as text."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    else:
        yield name, "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
