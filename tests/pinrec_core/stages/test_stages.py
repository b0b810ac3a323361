"""The model's stages, in process: a request gets the same answer in a batch and alone, and a bad one harms no other."""

from __future__ import annotations

import datetime
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from id_embedder.stage import IdEmbedderStage
from pinrec_core import contract
from pinrec_core.config.sections import GpuPrecision
from pinrec_core.deadline import NEVER, Deadline
from pinrec_core.errors import ExpiredError, InvalidRequestError, PinRecError
from pinrec_core.generation.captured import CapturedGenerator
from pinrec_core.release.format import Release
from pinrec_core.release.manifest import HeldOut
from pinrec_core.release.publishing import publish
from pinrec_core.request import Request
from pinrec_core.stages import generator
from pinrec_core.stages.base import StageParameters, run_batch
from pinrec_core.stages.faiss_retrieval import FaissRetrievalStage
from pinrec_core.stages.generator import GeneratorStage
from pinrec_core.stages.metrics import (
    EMBEDDINGS_GENERATED,
    EMBEDDINGS_KEPT,
    EMBEDDINGS_LOOKED_UP,
    ITEMS_ASKED,
    ITEMS_RETURNED,
    PROGRAM,
    RECALL_TARGET,
    SECOND_LOOKS,
    SHORT_ANSWERS,
)
from pinrec_core.stages.packing import decode_plan, decode_request, encode_request
from tests.pinrec_core.builders import F, random_history
from tests.pinrec_core.generation.rerun import Rerun
from tests.recorded import Recorded

TOLERANCE = 1e-5
"""float32 products in another batch size differ in the last bits; scores and embeddings are of order 1."""

TRAINING = HeldOut(evaluation_share=0.3, held_out_last=0)
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def release(serving, dataset, tmp_path_factory) -> Release:
    return publish(
        serving,
        dataset=dataset,
        releases=tmp_path_factory.mktemp("releases"),
        training=TRAINING,
        metrics={},
        now=NOW,
    )


@pytest.fixture(scope="module")
def stages(release, dataset):
    parameters = StageParameters(
        release=release.folder, signals=dataset / "signals", realtime=None, device="cpu", threads=1
    )
    return IdEmbedderStage(parameters), GeneratorStage(parameters), FaissRetrievalStage(parameters)


def request(
    length: int, seed: int, budget=(0.5, 0.3, 0.2), num_items: int = 20, seen: int = 0, deadline: Deadline = NEVER
) -> dict[str, np.ndarray]:
    """The tensors of one request as ``signal_fetch`` answers them."""
    history = random_history(length, seed)
    return {
        "history_item_key": history.item_key,
        "packed_request": encode_request(
            Request(
                history=history,
                surface=1,
                time=1_650_000_000,
                seed=seed,
                budget=np.array(budget),
                num_items=num_items,
                deadline=deadline,
            )
        ),
        "seen_item_key": np.arange(1000, 1000 + seen),
    }


def assert_same_answer(a, b):
    """Both hold the same items and scores in the same order, but items may change places within rounding."""
    np.testing.assert_allclose(a["score"], b["score"], atol=TOLERANCE)
    assert sorted(a["outcome"].tolist()) == sorted(b["outcome"].tolist())
    for position in np.flatnonzero(a["item_id"] != b["item_id"]):
        near = np.flatnonzero(np.abs(b["score"] - a["score"][position]) < TOLERANCE)
        last = len(b["score"]) - 1 in near  # an item that was not returned may have taken the last place
        assert last or a["item_id"][position] in b["item_id"][near]


def through(stages, requests):
    """Pass a batch through the three stages as the ensemble does."""
    tensors = [dict(r) for r in requests]
    for stage in stages:
        for known, answer in zip(tensors, run_batch(stage, tensors), strict=True):
            if isinstance(answer, PinRecError):
                raise answer
            known.update(answer)
    return tensors


def test_a_batch_gives_each_request_what_it_gets_alone(stages):
    requests = [request(0, 1), request(24, 2, num_items=7), request(9, 3, budget=(0, 0, 1)), request(1, 4, seen=60)]
    for together, one in zip(through(stages, requests), requests, strict=True):
        (alone,) = through(stages, [one])
        assert_same_answer(together, alone)


def test_nothing_is_generated_for_a_caller_that_has_stopped_waiting(stages, monkeypatch):
    requests = [request(3, 1), request(24, 2, deadline=Deadline.within(-1.0)), request(9, 3)]
    generated: list[int] = []
    generate = stages[1].generate
    monkeypatch.setattr(stages[1], "generate", lambda h, c: generated.append(len(c.surface)) or generate(h, c))
    embedded = [r | e for r, e in zip(requests, run_batch(stages[0], requests), strict=True)]
    answers = run_batch(stages[1], embedded)
    assert isinstance(answers[1], ExpiredError)
    assert generated == [2]
    for kept in (0, 2):
        (alone,) = run_batch(stages[1], [embedded[kept]])
        plan, expected = (decode_plan(answer["retrieval_plan"]) for answer in (answers[kept], alone))
        np.testing.assert_array_equal(plan.quota, expected.quota)
    (late,) = run_batch(stages[1], [embedded[1]])
    assert isinstance(late, ExpiredError)


def test_answers_follow_the_contract(stages):
    (answer,) = through(stages, [request(5, 1)])
    kinds = {"FP16": np.float16, "FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64, "ITEM_ID": np.int64}
    for spec in (contract.RETRIEVAL_PLAN, contract.ID_EMBEDDING, *contract.RECOMMENDED):
        tensor = answer[spec.name]
        assert tensor.ndim == len(spec.dims)
        assert tensor.dtype == kinds.get(spec.dtype, np.object_), spec.name


def test_the_budget_decides_the_outcome_mix_exactly(stages):
    for budget, expected in [((1, 0, 0), {b"save": 20}), ((0.5, 0.3, 0.2), {b"save": 10, b"click": 6, b"hide": 4})]:
        (answer,) = through(stages, [request(8, 1, budget=budget)])
        names, counts = np.unique(answer["outcome"], return_counts=True)
        assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == expected


def test_seen_items_do_not_come_back_and_n_is_kept(stages):
    (answer,) = through(stages, [request(8, 1, num_items=60, seen=60)])
    assert sorted(answer["item_id"].tolist()) == list(range(1060, 1120))


def test_a_wrong_width_harms_only_its_own_request(stages):
    good, bad = request(4, 1), request(4, 2)
    known = decode_request(bad["packed_request"])
    wide = replace(known.history, feature=np.zeros((4, F + 1), np.int8))
    bad["packed_request"] = encode_request(replace(known, history=wide))
    for r in (good, bad):
        r["history_id_embedding"] = np.zeros((4, 8), np.float16)
    first, second, third = run_batch(stages[1], [good, bad, good])
    assert isinstance(second, InvalidRequestError)
    assert str(second) == f"history feature has width {F + 1}: expected {F}"
    (alone,) = run_batch(stages[1], [good])
    first, third, alone = (decode_plan(answer["retrieval_plan"]) for answer in (first, third, alone))
    for name in ("embedding", "outcome", "quota"):
        np.testing.assert_allclose(getattr(first, name), getattr(alone, name), atol=TOLERANCE)
        np.testing.assert_allclose(getattr(third, name), getattr(alone, name), atol=TOLERANCE)


def test_id_embeddings_of_another_length_are_refused_alone_and_in_a_batch(stages):
    short, long = request(4, 1), request(9, 2)
    short["history_id_embedding"] = np.zeros((5, 8), np.float16)
    long["history_id_embedding"] = np.zeros((9, 8), np.float16)
    for requests in ([short], [short, long]):
        refused = run_batch(stages[1], requests)[0]
        assert isinstance(refused, InvalidRequestError)
        assert str(refused) == "history_id_embedding has shape [5, 8]: expected [4, 8]"


def test_a_history_that_is_too_long_and_bytes_that_nobody_packed_are_refused(stages):
    too_long, damaged = request(25, 1), request(4, 2)
    too_long["history_id_embedding"] = np.zeros((25, 8), np.float16)
    damaged["history_id_embedding"] = np.zeros((4, 8), np.float16)
    damaged["packed_request"] = damaged["packed_request"][:-1]
    first, second = run_batch(stages[1], [too_long, damaged])
    assert str(first) == "history has T=25: expected at most 24"
    assert isinstance(second, InvalidRequestError)
    assert str(second).startswith("packed_request of T=4, F=")


class WithoutGpu(GeneratorStage):
    """The stage as on a GPU, with the recorder that ``record`` stands for and the model on the CPU."""

    def __init__(self, stage: GeneratorStage, release: Release) -> None:
        self.config, self.generation = stage.config, stage.generation
        self.generate = self._on_gpu(release, torch.device("cpu"), GpuPrecision.FP32)
        self._warm_up()


def test_recorded_programs_serve_what_the_plain_model_does(stages, release, monkeypatch):
    monkeypatch.setattr(generator, "CudaGraphs", lambda device: Rerun())
    recorded = WithoutGpu(stages[1], release)
    assert isinstance(recorded.generate, CapturedGenerator)
    requests = [request(0, 1), request(24, 2, num_items=7), request(9, 3, budget=(0, 0, 1))]
    expected = through(stages, requests)
    for made, plain in zip(through((stages[0], recorded, stages[2]), requests), expected, strict=True):
        assert_same_answer(made, plain)


def test_where_nothing_can_be_recorded_the_plain_model_serves_after_one_warning(stages, release, monkeypatch, caplog):
    def failing(device: torch.device) -> Rerun:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(generator, "CudaGraphs", failing)
    with caplog.at_level(logging.WARNING):
        plain = WithoutGpu(stages[1], release)
    (record,) = caplog.records
    assert "no CUDA graphs" in record.message
    assert "not permitted when stream is capturing" in record.message
    one = [request(9, 3)]
    for made, expected in zip(through((stages[0], plain, stages[2]), one), through(stages, one), strict=True):
        assert_same_answer(made, expected)


def test_what_the_stages_measure_is_what_they_did(stages, release, dataset):
    recorded = Recorded()
    parameters = StageParameters(
        release=release.folder, signals=dataset / "signals", realtime=None, device="cpu", threads=1, metrics=recorded
    )
    measured = (stages[0], GeneratorStage(parameters), FaissRetrievalStage(parameters))
    assert recorded.of(PROGRAM, "plain") == [1]
    assert recorded.of(EMBEDDINGS_GENERATED) == []  # warming up is not counted
    assert recorded.of(RECALL_TARGET) == [release.manifest.calibration.recall_target]
    answers = through(measured, [request(24, 1, budget=(0.5, 0.3, 0.2)), request(3, 2, num_items=60, seen=100)])
    generation, outcomes = release.manifest.generation, release.manifest.dataset.outcomes
    plans = [decode_plan(answer["retrieval_plan"]) for answer in answers]
    assert recorded.total(EMBEDDINGS_GENERATED) == 2 * len(outcomes) * generation.steps * len(generation.offsets)
    assert recorded.total(EMBEDDINGS_LOOKED_UP) == sum(len(plan.quota) for plan in plans)
    kept = recorded.total(EMBEDDINGS_KEPT)
    assert recorded.total(EMBEDDINGS_LOOKED_UP) <= kept <= recorded.total(EMBEDDINGS_GENERATED)
    # 120 items are in the catalogue and 100 of them were seen, so that one answer has 20 instead of 60.
    returned = np.concatenate([answer["outcome"] for answer in answers])
    assert len(returned) == 20 + 20
    for place, name in enumerate(outcomes):
        assert recorded.total(ITEMS_ASKED, name) == sum(int(p.quota[p.outcome == place].sum()) for p in plans)
        assert recorded.total(ITEMS_RETURNED, name) == (returned == name.encode()).sum()
    assert recorded.total(SHORT_ANSWERS) == 1
    assert recorded.total(SECOND_LOOKS) >= 1
