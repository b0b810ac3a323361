"""``--offsets 1,2,4``, which several commands take."""

from __future__ import annotations

from pinrec_core.errors import ConfigError


def parse_offsets(text: str | None) -> tuple[int, ...] | None:
    """``1,2,4`` → (1, 2, 4). Raises ``ConfigError``."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"offsets={text!r}: expected whole numbers between commas, such as 1,2,4") from error
