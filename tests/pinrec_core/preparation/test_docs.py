"""docs/data.md agrees with the code: its example of a mapping is valid, and it explains every reason and preset."""

from __future__ import annotations

import re
from pathlib import Path

from pinrec_core.preparation.quarantine import Reason
from pinrec_core.preparation.schema import load_spec, preset_names

DOCS = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")


def test_the_example_mapping_is_valid(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    (tmp_path / "mapping.toml").write_text(example, "utf-8")
    spec = load_spec(tmp_path / "mapping.toml")
    assert spec.items is not None
    assert spec.events.query == "search_terms"


def test_every_reason_and_preset_is_explained():
    explained = re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE)
    assert set(Reason) <= set(explained)
    assert all(f"`{name}`" in DOCS for name in preset_names())
