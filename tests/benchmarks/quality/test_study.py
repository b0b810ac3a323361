"""Slips in a study's file are named before anything is trained."""

from __future__ import annotations

import pytest

from benchmarks.quality.study import load_study
from pinrec_core.errors import ConfigError
from tests.benchmarks.quality.small_study import STUDY, run_here


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "oc"', 'name = "uc"', "runs.name='uc': expected a name of its own"),
        ('variant = "oc"', 'variant = "other"', "runs.oc.variant='other': expected one of"),
        ('id_tables = "tables"', 'id_tables = "uc"', "a run of variant dot_product"),
        ("targets = 4", "target = 4", r"evaluation.keys=\['target'\]: expected only"),
        ("model.layers=1", "model.layer=1", "expected one of"),
        ('"held_out_offline", "steps", "budget"', '"held_outs"', r"runs.mt_oc.evaluations=\['held_outs'\]"),
        ('runs = ["mt_oc"]', 'runs = ["mtoc"]', "ablations.id_tables='mtoc'"),
        ('evaluations = ["held_out", "cold", "leave_one_out"]', 'evaluations = ["steps"]', "it has no embeddings"),
        ("title = ", "titel = ", r"Study keys=\['titel'\]: expected only"),
        ('dataset = "walk"', "", "dataset is missing: expected a value"),
        ('budget = ["click", "hide"]', 'budget = ["click", "click"]', "evaluation.budget=.*expected two outcomes"),
        ("0.5, 1.0]", "1.0, 0.5]", "evaluation.budget_shares=.*expected rising shares"),
        ("0.5, 1.0]", "0.5, 1.5]", "evaluation.budget_shares"),
        ('dataset = "walk"', 'dataset = "walk"\ntimes = "hours"', "times='hours': expected"),
        ("k = 5", "k = 0", "evaluation.k=0: expected a value of at least 1"),
        ("max_users = 30", 'max_users = "all"', "evaluation.max_users='all': expected a whole number"),
        ("offsets = [1, 2]", "offsets = 1", "evaluation.offsets=1: expected a list"),
        ('name = "oc"', 'name = "a/b"', "runs.a/b.name='a/b'"),
        ("[training]", "[[training]]", r"training=\[.*expected \[training\]"),
        ("held_out_last = 1", "held_out_last = 0", "split.held_out_last=0: expected at least 1, which run 'uc'"),
        ("evaluation_share = 0.3", "evaluation_share = 0", "split.evaluation_share=0.0: expected a share of"),
        ('dataset = "walk"', 'dataset = ', "expected a study as TOML"),
    ],
)  # fmt: skip
def test_a_slip_in_a_study_is_named(old, new, message, tmp_path):
    assert old in STUDY
    path = tmp_path / "yelp.toml"
    path.write_text(STUDY.replace(old, new, 1), "utf-8")
    with pytest.raises(ConfigError, match=message):
        load_study(str(path))


def test_what_a_model_cannot_generate_is_refused_before_anything_is_trained(tmp_path, datasets):
    (tmp_path / "yelp.toml").write_text(STUDY.replace("embeddings = 6", "embeddings = 7", 1), "utf-8")
    with pytest.raises(ConfigError, match=r"run 'oc': embeddings=7: expected a multiple of 3"):
        run_here(tmp_path, datasets)
    (tmp_path / "yelp.toml").write_text(STUDY.replace("targets = 4", "targets = 4000", 1), "utf-8")
    with pytest.raises(ConfigError, match=r"evaluation.targets=4000: expected so few that a user"):
        run_here(tmp_path, datasets)
    with pytest.raises(ConfigError, match="expected one of"):
        load_study("yelpp")
    assert not list((tmp_path / "work" / "yelp").glob("*/"))
