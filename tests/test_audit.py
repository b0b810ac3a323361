"""The audit of dependencies fails for a known vulnerability, and says what it could not look at."""

from __future__ import annotations

from tests.audit import verdict

SOUND = {"name": "numpy", "version": "1.26.4", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "not found on PyPI"}
WEAK = {"name": "aiohttp", "version": "3.8.0", "vulns": [{"id": "CVE-2024-1", "fix_versions": ["3.9.0"]}]}


def test_a_known_vulnerability_fails() -> None:
    lines, status = verdict([SOUND, WEAK])
    assert status == 1
    assert lines[0] == "aiohttp 3.8.0: CVE-2024-1, mended in 3.9.0"


def test_what_nobody_looked_at_is_not_called_sound() -> None:
    lines, status = verdict([SOUND, UNKNOWN])
    assert status == 0
    assert lines == ["audited: 1 of 2 pinned versions", "not audited: torch (not found on PyPI)"]
