"""Training and evaluation on a small log with structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pinrec_core.catalogue import ItemCatalogue
from pinrec_core.config import GenerationConfig, ModelConfig, TrainingConfig, preset
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.evaluation import evaluate, evaluation_cases, serving_budget
from pinrec_core.sequences import BatchInfo, is_evaluation_user, iter_histories
from pinrec_core.settings import apply_settings
from pinrec_core.training import SEQUENCES, Run, epoch_batches, learning_rate_factor, stretches
from tests.pinrec_core.builders import random_history, tiny_config
from tests.pinrec_core.conftest import EVALUATION_SHARE, train_tiny


def test_training_beats_popularity_on_users_it_never_saw(dataset, tmp_path):
    from tests.pinrec_core.conftest import indexed_model

    run = train_tiny(dataset, tmp_path, epochs=20)
    catalogue = ItemCatalogue.open(dataset)
    cases, popularity = evaluation_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=4, max_users=100)
    s = indexed_model(run, dataset)
    report = evaluate(s.model, s.embed_ids, s.index, s.generation, s.dataset, cases, popularity, k=1)
    assert report.unordered_recall > 1.5 * report.popularity_recall_equal_items, report


def test_same_seed_same_weights(dataset, run, tmp_path):
    again = train_tiny(dataset, tmp_path).load_model().state_dict()
    for name, weight in run.load_model().state_dict().items():
        assert torch.equal(weight, again[name]), name


def test_a_run_reads_back_as_it_was_written(run):
    loaded = Run.load(run.folder)
    assert (loaded.model, loaded.objective, loaded.training) == (run.model, run.objective, run.training)
    assert loaded.metrics["steps"] > 0


def test_held_out_users_never_reach_a_training_batch(dataset):
    info, training = (
        BatchInfo.load(dataset / SEQUENCES),
        TrainingConfig(evaluation_share=EVALUATION_SHARE, batch_users=5),
    )
    batches = list(epoch_batches(dataset / SEQUENCES, info, tiny_config(), training, np.random.default_rng(0)))
    trained = sum(len(h) for _, batch in batches for h in batch)
    users = list(iter_histories(dataset / SEQUENCES))
    expected = sum(len(h) for u, h in users if not is_evaluation_user(u, EVALUATION_SHARE))
    alone = sum(1 for u, h in users if not is_evaluation_user(u, EVALUATION_SHARE) and len(h) > 24)
    assert 0 < expected - trained + 1 <= 1 + 2 * alone  # at most a single interaction is lost at either end of a cut
    assert batches[-1][0] == pytest.approx(1.0)


def test_stretches_cover_a_history_without_overlap():
    history = random_history(100, 0)
    parts = list(stretches(history, 24, np.random.default_rng(3)))
    assert max(len(p) for p in parts) <= 24
    joined = np.concatenate([p.item_key for p in parts])
    assert len(joined) >= 98
    assert np.isin(joined, history.item_key).all()
    assert len(np.unique(joined)) == len(joined)


def test_targets_are_the_last_distinct_items_and_come_after_the_history(dataset):
    catalogue = ItemCatalogue.open(dataset)
    cases, popularity = evaluation_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=4, max_users=100)
    histories = {len(h): h for u, h in iter_histories(dataset / SEQUENCES) if is_evaluation_user(u, EVALUATION_SHARE)}
    assert len(cases) > 3
    for case in cases:
        assert len(set(case.target_row.tolist())) == 4
        assert case.request_time >= case.history.timestamp[-1]
    assert popularity.sum() == sum(
        len(h) for u, h in iter_histories(dataset / SEQUENCES) if not is_evaluation_user(u, EVALUATION_SHARE)
    )
    assert len(histories) > 0


def test_unordered_recall_against_brute_force(serving, dataset):
    catalogue = ItemCatalogue.open(dataset)
    cases, popularity = evaluation_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=4, max_users=6)
    from pinrec_core.evaluation import generate_for

    budget = serving_budget(serving.model, serving.dataset)
    report = evaluate(
        serving.model,
        serving.embed_ids,
        serving.index,
        serving.generation,
        serving.dataset,
        cases,
        popularity,
        k=3,
        batch=16,
    )
    embedding = generate_for(serving.model, serving.embed_ids, cases, budget, serving.generation).numpy()
    items = serving.index.reconstruct(np.arange(len(catalogue)))
    recalled = total = 0
    for case, vectors in zip(cases, embedding.reshape(len(cases), -1, items.shape[1]), strict=True):
        for target in case.target_row:
            score = vectors @ items.T
            better = (score > score[:, [target]]).sum(axis=1)
            recalled += bool((better < 3).any())
            total += 1
    assert report.unordered_recall == pytest.approx(recalled / total)


def test_no_case_is_a_clear_error(serving):
    with pytest.raises(DataError, match="no held-out user"):
        evaluate(
            serving.model, serving.embed_ids, serving.index, serving.generation, serving.dataset, [], np.zeros(1), k=3
        )


def test_learning_rate_warms_up_and_ends_at_a_tenth():
    assert learning_rate_factor(0.025, 0.05) == pytest.approx(0.5)
    assert learning_rate_factor(0.05, 0.05) == pytest.approx(1.0)
    assert learning_rate_factor(1.0, 0.05) == pytest.approx(0.1)


def test_settings_change_one_value_and_refuse_unknown_names():
    changed = apply_settings(preset("tiny"), ["objective.window=8", "model.layers=3", "objective.window_reduction=min"])
    assert (changed.objective.window, changed.model["layers"], changed.objective.window_reduction) == (8, 3, "min")
    assert preset("tiny").objective.window != 8
    for wrong in ("window=8", "model.colour=1", "training.speed=2", "objective.window"):
        with pytest.raises(ConfigError, match=r"expected|keys"):
            apply_settings(preset("tiny"), [wrong])


def test_configurations_refuse_what_cannot_be():
    good = tiny_config().to_dict()
    for field, value, message in [
        ("heads", 5, "a multiple of heads=5"),
        ("id_rows", 100, "a power of two"),
        ("dropout", 1.0, "a value in"),
        ("layers", 0, "above 0"),
        ("surprise", 1, "surprise"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ModelConfig.from_dict(good | {field: value})
    with pytest.raises(ConfigError, match="with 1 among them"):
        GenerationConfig(offsets=(2, 3))
    assert GenerationConfig.from_dict(GenerationConfig(offsets=(1, 4)).to_dict()) == GenerationConfig(offsets=(1, 4))
