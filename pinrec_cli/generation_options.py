"""The options that say what a model generates per user. Every command that indexes a model has the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from pinrec_core.config.sections import Variant
from pinrec_core.errors import ConfigError

Embeddings = Annotated[
    int | None,
    typer.Option(
        help="E: embeddings per user, the product of steps, outcomes and offsets. By default six steps, as in the "
        "paper's production, of all offsets; for a release, the number that it was calibrated for. Served recall at "
        "another number is not what a release made for that number would serve.",
        show_default=False,
    ),
]
Offsets = Annotated[
    str | None,
    typer.Option(help="Offsets per step of a multi-token variant, e.g. 1,2,4; all by default.", show_default=False),
]


def parse_offsets(text: str | None) -> tuple[int, ...] | None:
    """``1,2,4`` → (1, 2, 4). Raises ``ConfigError``."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"offsets={text!r}: expected whole numbers between commas, such as 1,2,4") from error


def options_without_use(variant: Variant, *, embeddings: int | None, offsets: Sequence[int] | None) -> list[str]:
    """Which of the two options ask for something that a model of this variant cannot generate."""
    unused = {
        "--embeddings": variant.one_embedding and embeddings not in (None, 1),
        "--offsets": not variant.multi_token and offsets is not None and tuple(offsets) != (1,),
    }
    return [option for option, is_unused in unused.items() if is_unused]
