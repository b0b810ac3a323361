"""The name under which Triton loads a stage of a release: ``generator__r42``."""

from __future__ import annotations

from pinrec_core.release.current import check_release_id

SEPARATOR = "__"
"""Between the two. No name of a stage contains it."""


def qualified_name(stage: str, release_id: str) -> str:
    """Raises ``ReleaseError`` for an id that no release can have."""
    check_release_id(release_id)
    return f"{stage}{SEPARATOR}{release_id}"


def stage_and_release(name: str) -> tuple[str, str]:
    """``generator__r42`` → ``("generator", "r42")``. A model that belongs to no release has ``""`` for it."""
    stage, _, release_id = name.partition(SEPARATOR)
    return stage, release_id
