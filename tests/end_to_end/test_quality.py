"""A minute of training on a real log has to be worth it."""

from __future__ import annotations

import json

from tests.end_to_end.conftest import pinrec


def test_a_minute_of_training_beats_popularity(ml100k, tmp_path):
    """On users held out of it, at as many distinct items as its lists hold and in the 100 items that are served; by
    the lower bound of the interval over users. About 30 s on one core."""
    run = tmp_path / "run"
    pinrec(
        "train", ml100k.dataset, "--out", run, "--preset", "tiny", "--variant", "uc", "--epochs", 6,
        "--set", "training.batch_users=8", "--set", "training.evaluation_share=0.3",
    )  # fmt: skip
    popular = ["popularity", "popularity-by-surface"]
    judged = json.loads(pinrec("evaluate", run, *popular, "--json").stdout)
    assert {c["baseline"] for c in judged["comparisons"]} == set(popular)
    for compared in judged["comparisons"]:
        if compared["metric"] in ("unordered_recall_equal_distinct_items", "served_recall"):
            assert compared["low"] > 1, compared
