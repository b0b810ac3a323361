"""Training and evaluation on a small log with structure."""

from __future__ import annotations

import datetime
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from pinrec_core import evaluation
from pinrec_core.catalogue import FILE_NAME, ItemCatalogue, write_catalogue
from pinrec_core.cli.evaluate import load_subject
from pinrec_core.compression import compress, compression_ratio
from pinrec_core.config import GenerationConfig, ModelConfig, ObjectiveConfig, TrainingConfig, preset
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.evaluation import evaluate, evaluation_cases, serving_budget
from pinrec_core.history import NO_OUTCOME
from pinrec_core.publishing import publish
from pinrec_core.release import EVALUATION_SHARE_KEY
from pinrec_core.sequences import BatchInfo, is_evaluation_user, iter_histories
from pinrec_core.settings import apply_settings
from pinrec_core.training import SEQUENCES, Run, epoch_batches, learning_rate_factor, stretches, train
from tests.pinrec_core.builders import random_history, tiny_config
from tests.pinrec_core.conftest import EVALUATION_SHARE, indexed_model, train_tiny


def test_training_beats_popularity_on_users_it_never_saw(dataset, tmp_path):
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
    users = torch.from_numpy(embedding)
    merged = compress(users, serving.generation.merge_cosine)
    assert report.compression_ratio == pytest.approx(compression_ratio(merged))


def test_the_exact_search_gives_the_same_in_blocks(monkeypatch):
    query, items = torch.randn(7, 4), torch.randn(50, 4)
    expected = (query @ items.T).argsort(dim=1, descending=True)[:, :5].numpy()
    for scores in (1 << 20, 120, 1):
        monkeypatch.setattr(evaluation, "SCORES_AT_ONCE", scores)
        np.testing.assert_array_equal(evaluation.exact_top_k(query, items, 5), expected)


@pytest.mark.parametrize(("field", "value"), [("targets", 0), ("max_users", -1)])
def test_numbers_below_one_are_refused(dataset, field, value):
    numbers = {"targets": 4, "max_users": 10} | {field: value}
    with pytest.raises(ConfigError, match=f"{field}={value}: expected a value above 0"):
        evaluation_cases(dataset, ItemCatalogue.open(dataset), share=EVALUATION_SHARE, **numbers)


def test_a_release_is_judged_on_its_own_rows_and_on_users_held_out_of_it(serving, run, dataset, tmp_path):
    """The dataset given has grown since, so that its rows are others; a tenth of the users is not what was held out."""
    metrics = {EVALUATION_SHARE_KEY: EVALUATION_SHARE / 3}
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    release = publish(serving, dataset=dataset, releases=tmp_path / "releases", metrics=metrics, now=now)
    grown = shutil.copytree(dataset, tmp_path / "grown")
    table = pa.ipc.open_file(dataset / FILE_NAME).read_all().drop_columns("feature")
    old = ItemCatalogue.open(dataset)
    write_catalogue(
        grown,
        item_key=np.concatenate([[1, 2, 3], old.item_key]),
        item_id=pa.array([1, 2, 3, *table["item_id"].to_pylist()]),
        title=pa.array(["new"] * 3 + table["title"].to_pylist()),
        categories=pa.array([""] * (3 + len(old))),
        feature=np.concatenate([old.feature[:3], old.feature]),
        scale=np.concatenate([old.scale[:3], old.scale]),
    )
    _, cases, popularity = load_subject(release.folder, grown, targets=4, max_users=100)
    expected, _ = evaluation_cases(dataset, old, share=EVALUATION_SHARE / 3, targets=4, max_users=100)
    assert [c.target_row.tolist() for c in cases] == [c.target_row.tolist() for c in expected]
    assert len(popularity) == len(old)


def test_a_dataset_of_other_sizes_is_refused(run, dataset, tmp_path):
    other = shutil.copytree(dataset, tmp_path / "other")
    manifest = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(manifest | {"surfaces": ["", "home"]}))
    with pytest.raises(DataError, match="num_surfaces=2 of dataset 'walk': expected 4"):
        indexed_model(run, other)


def test_no_case_is_a_clear_error(serving):
    with pytest.raises(DataError, match="no held-out user"):
        evaluate(
            serving.model, serving.embed_ids, serving.index, serving.generation, serving.dataset, [], np.zeros(1), k=3
        )


def test_the_share_of_a_pass_grows_with_every_batch_of_a_log_that_fits_the_buffer(dataset):
    """The learning rate follows it: one value for a whole pass would leave out the warm-up."""
    info, training = BatchInfo.load(dataset / SEQUENCES), TrainingConfig(batch_users=8)
    passes = epoch_batches(dataset / SEQUENCES, info, tiny_config(), training, np.random.default_rng(0))
    share = [share for share, _ in passes]
    assert len(share) > 10
    np.testing.assert_allclose(np.diff(share), 1 / len(share))
    assert share[-1] == pytest.approx(1.0)


def test_a_stretch_needs_a_target_and_one_interaction_is_enough():
    generator = np.random.default_rng(0)
    click, query = random_history(1, 0, queries=False), random_history(3, 0)
    query.outcome[:] = NO_OUTCOME
    assert [len(s) for s in stretches(click, 8, generator)] == [1]
    assert list(stretches(query, 8, generator)) == []


def test_what_cannot_be_trained_is_refused_before_training(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder to write to"):
        train_tiny(dataset, tmp_path / "file", epochs=10**9)
    with pytest.raises(ConfigError, match="device='nowhere': expected a torch device"):
        train(
            dataset, tmp_path / "run", model_config=tiny_config(), objective_config=ObjectiveConfig(),
            training_config=TrainingConfig(), device="nowhere",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_damaged_run_is_named(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    good = json.loads((folder / "run.json").read_text())
    for text, message in [
        ("{", "expected what `pinrec train` writes"),
        ("[]", "expected what `pinrec train` writes"),
        ("{}", "key 'dataset' is missing"),
        (json.dumps(good | {"model": good["model"] | {"variant": "x"}}), "variant='x': expected one of"),
    ]:
        (folder / "run.json").write_text(text)
        with pytest.raises(DataError, match=message):
            Run.load(folder)
    (folder / "run.json").write_text(json.dumps(good | {"model": good["model"] | {"hidden_width": 64}}))
    with pytest.raises(DataError, match="expected the weights of the model"):
        Run.load(folder).load_model()
    (folder / "weights.safetensors").write_bytes(b"junk")
    with pytest.raises(DataError, match="expected the weights of the model"):
        Run.load(folder).load_model()


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
        ("layers", 1.5, "layers=1.5: expected a whole number"),
        ("layers", True, "expected a whole number"),
        ("dropout", "a", "expected a finite number"),
        ("dropout", float("nan"), "expected a finite number"),
        ("id_width", -4, "id_width=-4: expected a value of at least 0"),
        ("variant", "x", "variant='x': expected one of"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ModelConfig.from_dict(good | {field: value})
    for wrong in ({"seed": -1}, {"warmup_share": 1.0}, {"weight_decay": -0.1}):
        with pytest.raises(ConfigError, match="expected a value"):
            TrainingConfig(**wrong)
    with pytest.raises(ConfigError, match="in_batch_negatives=-5"):
        ObjectiveConfig(in_batch_negatives=-5)
    with pytest.raises(ConfigError, match="with 1 among them"):
        GenerationConfig(offsets=(2, 3))
    assert GenerationConfig.from_dict(GenerationConfig(offsets=(1, 4)).to_dict()) == GenerationConfig(offsets=(1, 4))
