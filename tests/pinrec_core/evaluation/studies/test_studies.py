"""Sweeps and number formats on the tiny run: their bookkeeping, not their outcome."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pinrec_core.config.sections import Merging
from pinrec_core.dataset.manifest import SEQUENCES
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.dataset.splits import is_evaluation_user, training_histories
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.evaluation.studies.budget_sweep import count_outcomes, sweep_budget
from pinrec_core.evaluation.studies.embeddings_per_step import generation_latency, sweep_embeddings_per_step
from pinrec_core.evaluation.studies.precision import compare_precisions, full_precision_features
from pinrec_core.evaluation.subjects import ModelSubject
from pinrec_core.generation.defaults import with_embeddings
from pinrec_core.generation.planning import plan_retrieval
from pinrec_core.representations.quantization import quantize_int8
from pinrec_core.representations.text_encoder import text_encoder
from tests.pinrec_core.builders import tiny_config
from tests.pinrec_core.conftest import EVALUATION_SHARE


def test_outcomes_are_counted_over_training_users(dataset, serving):
    counted = count_outcomes(training_histories(dataset, share=EVALUATION_SHARE), serving.catalogue, 3)
    expected = np.zeros_like(counted)
    for user, history in iter_histories(dataset / SEQUENCES):
        if not is_evaluation_user(user, EVALUATION_SHARE):
            for key, outcome in zip(history.item_key.tolist(), history.outcome.tolist(), strict=True):
                expected[key - 1000, outcome] += 1
    np.testing.assert_array_equal(counted, expected)


@pytest.mark.parametrize("merging", [Merging.PER_OUTCOME, Merging.QUOTA])
def test_own_embeddings_deliver_the_budget_and_hits_add_up(subject, cases, merging):
    points = sweep_budget(
        merged_by(subject, merging), cases, from_outcome=0, to_outcome=2, item_outcomes=one_outcome_each(subject),
        shares=(0, 0.3, 1), num_items=10,
    )  # fmt: skip
    assert [point.own_mix["hide"] for point in points] == pytest.approx([0, 0.3, 1])
    assert [point.own_mix["click"] for point in points] == [0, 0, 0]
    targets = np.bincount(np.stack([case.target_outcome for case in cases]).ravel(), minlength=3)
    for point in points:
        assert sum(point.logged_mix.values()) == pytest.approx(1)
        hits = [point.served_recall_by_outcome[n] * t for n, t in zip(("save", "click", "hide"), targets, strict=True)]
        assert point.served_recall == pytest.approx(sum(hits) / targets.sum())


def test_what_every_user_is_served_is_kept(subject, cases):
    """By the log's rates an item counts for the one outcome it has here, so that it can be counted over."""
    counts = one_outcome_each(subject)
    (point,) = sweep_budget(
        subject, cases, from_outcome=0, to_outcome=2, item_outcomes=counts, shares=(0.4,), num_items=10
    )
    answers = subject.indexed.answer([case.request(np.array([0.6, 0, 0.4]), num_items=10) for case in cases])
    for user, answer in enumerate(answers):
        np.testing.assert_array_equal(point.hit[user], np.isin(cases[user].target_row, answer.item_row))
        np.testing.assert_array_equal(point.logged[user], counts[answer.item_row].sum(axis=0))
        assert point.own[user].tolist() == [6, 0, 4]
    np.testing.assert_array_equal(point.target_outcome, [case.target_outcome for case in cases])


def test_items_are_counted_by_the_embedding_that_brought_them_and_not_by_their_label(subject, cases):
    """A mixture labels items after it chose them, so that its labels keep to any budget, and its embeddings do not."""
    mixture = merged_by(subject, Merging.MIXTURE)
    (point,) = sweep_budget(
        mixture, cases, from_outcome=0, to_outcome=2, item_outcomes=one_outcome_each(subject), shares=(0.4,),
        num_items=10,
    )  # fmt: skip
    requests = [case.request(np.array([0.6, 0, 0.4]), num_items=10) for case in cases]
    answers = mixture.indexed.answer(requests)
    assert all(np.bincount(answer.outcome, minlength=3).tolist() == [6, 0, 4] for answer in answers)
    plans = plan_retrieval(mixture.indexed.generate(requests), requests, mixture.indexed.generation)
    brought = [plan.outcome[answer.embedding] for plan, answer in zip(plans, answers, strict=True)]
    np.testing.assert_array_equal(point.own, [np.bincount(outcome, minlength=3) for outcome in brought])
    assert any(row.tolist() != [6, 0, 4] for row in point.own)


def test_a_sweep_without_users_is_refused(subject):
    with pytest.raises(DataError, match="at least one user"):
        sweep_budget(subject, [], from_outcome=0, to_outcome=1, item_outcomes=one_outcome_each(subject))


def merged_by(subject: ModelSubject, merging: Merging) -> ModelSubject:
    generation = replace(subject.indexed.generation, merging=merging)
    return ModelSubject("merged", replace(subject.indexed, generation=generation))


def one_outcome_each(subject: ModelSubject) -> np.ndarray:
    """Counts int64 ``[V, 3]`` by which item i got outcome i modulo 3."""
    return np.eye(3, dtype=np.int64)[np.arange(len(subject.catalogue)) % 3]


def test_a_budget_of_one_outcome_is_what_the_serving_path_makes_of_it(subject, cases):
    (point,) = sweep_budget(
        subject, cases, from_outcome=0, to_outcome=1, item_outcomes=np.ones((len(subject.catalogue), 3), np.int64),
        shares=(1,), num_items=10,
    )  # fmt: skip
    alone = ModelSubject("all clicks", subject.indexed, np.array([0.0, 1.0, 0.0]))
    served = alone.answer(cases, depth=1, num_items=10).served
    hits = [np.isin(case.target_row, rows).mean() for case, rows in zip(cases, served, strict=True)]
    assert point.served_recall == pytest.approx(np.mean(hits))


def test_steps_shrink_as_offsets_grow_and_the_total_stays(subject, cases):
    points = list(sweep_embeddings_per_step(subject, cases[:20], total=24, offsets_per_step=(1, 2, 4), k=3, requests=3))
    assert [(point.offsets_per_step, point.steps) for point in points] == [(1, 8), (2, 4), (4, 2)]
    for point in points:
        assert point.result.metrics["embeddings"] == point.steps * point.embeddings_per_step == 24
        assert 0 < point.latency.median_ms <= point.latency.p99_ms


def test_latency_is_of_as_many_requests_as_asked_for(subject, cases):
    assert generation_latency(subject, cases[:2], requests=5).requests == 5


@pytest.mark.parametrize(
    ("embeddings", "offsets", "message"),
    [(7, None, "a multiple of 12"), (120, (1, 2), "at most 48"), (24, (1, 5), "none above max_offset=4")],
)
def test_embeddings_that_cannot_be_are_refused(serving, embeddings, offsets, message):
    with pytest.raises(ConfigError, match=message):
        with_embeddings(serving.generation, serving.model.config, embeddings=embeddings, offsets=offsets)


def test_a_baseline_of_one_embedding_takes_one_step_whatever_the_total(serving):
    for variant in ("pinnerformer", "sasrec"):
        generation = with_embeddings(serving.generation, tiny_config(variant), embeddings=24, offsets=(1, 2))
        assert (generation.steps, generation.offsets) == (1, (1,))


@pytest.fixture
def with_texts(subject) -> ModelSubject:
    """The subject on a catalogue whose features are really those of its titles."""
    catalogue = subject.indexed.catalogue
    encoder = text_encoder(subject.indexed.dataset.text_encoder)
    feature, scale = quantize_int8(encoder.encode([catalogue.title(row) for row in range(len(catalogue))]))
    again = type(catalogue)(catalogue._table)
    again.feature, again.scale = feature, scale
    return ModelSubject("with texts", replace(subject.indexed, catalogue=again))


def test_features_made_again_differ_by_the_quantisation_alone(with_texts):
    catalogue = with_texts.indexed.catalogue
    feature = full_precision_features(catalogue, with_texts.indexed.dataset)
    error = np.abs(feature - catalogue.feature * catalogue.scale[:, None])
    assert (error <= catalogue.scale[:, None] * 0.5001).all()  # half a step, and float32
    assert error.max() > 0


def test_precisions_are_compared_with_fp32_throughout(with_texts, cases):
    rows = compare_precisions(with_texts, cases[:20], k=3)
    assert [(row.features, row.arithmetic) for row in rows] == [
        ("fp32", "fp32"), ("int8", "fp32"), ("int8", "bf16"), ("int8", "fp16"),
    ]  # fmt: skip
    assert rows[0].ratio.value == 1
    assert all(row.hit.shape == (20, 4) for row in rows)
    direct = with_texts.answer(cases[:20], depth=3, num_items=1).retrieved.reshape(20, -1)
    expected = [np.isin(case.target_row, found) for case, found in zip(cases, direct, strict=False)]
    np.testing.assert_array_equal(rows[1].hit, expected)  # serving's own numbers
    assert with_texts.indexed.model.start_token.dtype is torch.float32  # the casts are of copies


def test_features_of_other_texts_are_refused(subject):
    with pytest.raises(DataError, match="described by nothing else"):
        full_precision_features(subject.indexed.catalogue, subject.indexed.dataset)
    wider = replace(subject.indexed.dataset, feature_width=20)
    with pytest.raises(DataError, match="feature_width=20: expected 12"):
        full_precision_features(subject.indexed.catalogue, wider)
