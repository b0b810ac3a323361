"""docs/data.md says what the code does: its mapping is valid, and it explains every reason."""

from __future__ import annotations

import re
from pathlib import Path

from pinrec_core.data.quarantine import Reason
from pinrec_core.data.schema import parse_spec, preset_names

DOCS = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")


def test_the_example_mapping_is_valid():
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    spec = parse_spec(example, source="docs/data.md")
    assert spec.items is not None
    assert spec.events.query == "search_terms"


def test_every_reason_and_preset_is_explained():
    explained = re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE)
    assert set(Reason) <= set(explained)
    assert all(f"`{name}`" in DOCS for name in preset_names())
