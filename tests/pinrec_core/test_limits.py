"""The table of limits: its page is made of it, errors are, and every field of it exists."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from pinrec_core import contract, limits
from pinrec_core.errors import InvalidRequestError, one_of, require
from tests.import_graph import ROOT
from tests.limits_table import PAGE, with_table


def test_the_page_shows_the_table_of_the_code():
    text = PAGE.read_text("utf-8")
    assert text == with_table(text), "run python -m tests.limits_table"


def test_every_field_is_a_tensor_or_a_whole():
    tensors = {t.name for s in (*contract.PIPELINE, contract.SIGNAL_INGEST) for t in s.inputs}
    named = {field for group in limits.TABLE.values() for limit in group for field in limit.fields}
    assert named - tensors == {"any tensor of texts", "request", "error message"}
    bounded_by_type = {"exclude_seen", "history_id_embedding"}  # a boolean; one row for each position
    assert tensors - named == bounded_by_type


def test_every_limit_is_in_the_table_and_enforced_somewhere():
    names = {name for name, value in vars(limits).items() if isinstance(value, limits.Limit | limits.ReleaseLimit)}
    listed = [limit for group in limits.TABLE.values() for limit in group]
    assert all(getattr(limits, name) in listed for name in names)
    used = set()
    for package in ("pinrec_core", "signal_service", "id_embedder", "pinrec_serving"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and path.name != "limits.py"}
    assert names - used <= {"REQUEST", "MESSAGE"}  # of whom limits.py itself has the check


def test_a_size_beyond_a_limit_is_an_error_with_field_size_and_limit():
    limits.EVENT_ID.check(256, "event_id[3]")
    for size in (0, 257):
        with pytest.raises(InvalidRequestError) as refused:
            limits.EVENT_ID.check(size, "event_id[3]")
        assert str(refused.value) == f"event_id[3] has {size} bytes: expected 1 to 256"
    with pytest.raises(InvalidRequestError, match="budget has 4 entries: expected at most 3"):
        limits.BUDGET.check(4, "budget", 3)


def test_the_bytes_of_a_request_are_those_of_all_its_tensors():
    text = np.array([b"x" * (limits.REQUEST.most - 8), b""], object)
    limits.check_request_bytes({"a": text, "b": np.zeros(1, np.int64)})
    with pytest.raises(InvalidRequestError, match=f"request has {limits.REQUEST.most + 1} bytes"):
        limits.check_request_bytes({"a": text, "b": np.zeros(9, np.uint8)})


@pytest.mark.parametrize("letter", ["x", "é", "\ud800"])
def test_messages_are_cut_to_what_travels(letter):
    short = letter * 9
    assert limits.cut_message(short) == short
    cut = limits.cut_message(letter * 5000)
    assert len(cut.encode("utf-8", "surrogatepass")) <= limits.MESSAGE.most
    assert cut.endswith("…")


def test_messages_show_the_beginning_of_long_values_and_lists():
    with pytest.raises(InvalidRequestError) as refused:
        require(False, "surface", "x" * 5000, one_of([str(n) for n in range(1000)]))
    assert len(str(refused.value)) < 500
    assert "5002 characters" in str(refused.value)
    assert str(refused.value).endswith("and 984 more")
    assert one_of(("a", "b")) == "one of ['a', 'b']"
