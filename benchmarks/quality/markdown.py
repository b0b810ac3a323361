"""Markdown of the report: tables, numbers, intervals and names of files. This module knows nothing of studies."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> list[str]:
    """A Markdown table and an empty line after it. The first ``text_columns`` are aligned left, the others right."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return [*("| " + " | ".join(line) + " |" for line in (header, rule, *rows)), ""]


def number(value: float | None, digits: int = 4) -> str:
    """``value`` with ``digits`` decimals, and two more of them below .01, where few would be left."""
    if value is None:
        return "–"
    return f"{value:.{digits + 2 if 0 < abs(value) < 0.01 else digits}f}"


def interval(bounds: Sequence[float | None] | None, digits: int = 4) -> str:
    return "–" if bounds is None else f"[{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def over_seeds(value: float | None, by_seed: Sequence[float], digits: int = 4) -> str:
    """The mean and, where there are several seeds, the smallest and the largest of them."""
    if len(by_seed) < 2:
        return number(value, digits)
    return f"{number(value, digits)} ({number(min(by_seed), digits)}–{number(max(by_seed), digits)})"


def slug(name: str) -> str:
    """The name of a run or an ablation as part of a file's name."""
    return name.replace("_", "-").replace(" ", "-")


def sentence(text: str) -> str:
    """``text`` with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + "."
