"""Malformed requests against the whole service: no crash, no hang, no leak, and no neighbour notices."""

from __future__ import annotations

import json

import pytest

from load_tests.fuzzing.__main__ import main
from load_tests.fuzzing.neighbours import IDENTICAL, ROUNDED

pytestmark = pytest.mark.triton

REQUESTS = 300


def test_malformed_requests_are_refused_and_change_nothing(ml100k, ml100k_server, tmp_path, capsys):
    result = tmp_path / "fuzzing.json"
    status = main(
        ["--url", ml100k_server.url, "--dataset", str(ml100k.dataset), "--server-pid", str(ml100k_server.process.pid),
         "--requests", str(REQUESTS), "--seed", "7", "--deadline", "60", "--json", str(result)]
    )  # fmt: skip
    assert status == 0, capsys.readouterr().out
    found = json.loads(result.read_text())
    answered = {model: sum(codes.values()) for model, codes in found["statuses"].items()}
    assert sum(answered.values()) + found["left_out"] == REQUESTS
    for model in ("pinrec", "signal_ingest", "signal_fetch", "id_embedder", "generator", "faiss_retrieval"):
        assert found["statuses"][model]["INVALID_ARGUMENT"] > 0, model
    assert found["neighbours"][IDENTICAL] + found["neighbours"][ROUNDED] > 0
