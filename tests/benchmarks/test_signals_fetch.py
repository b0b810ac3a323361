"""The benchmark of a fetch runs on small stores and times what it says."""

from __future__ import annotations

import json

import pytest

from benchmarks.signals.fetch import main


def test_it_times_requests_of_long_histories(tmp_path, capsys: pytest.CaptureFixture[str]):
    main(users=30, long=5, history=64, recent=20, width=16, requests=40, folder=tmp_path)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["settings"]["users"] == 30
    whole = result["rows"]["fetch + merge + de-quantise"]
    assert 0 < whole["median_ms"] <= whole["p99_ms"]
    assert len(result["rows"]) == 6
    assert list(tmp_path.iterdir()) == []
