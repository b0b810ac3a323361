"""A run is indexed with the dataset it was trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.errors import DataError
from pinrec_core.evaluation.opening import known_request, open_run, task_for_subjects
from pinrec_core.evaluation.subjects import ModelSubject
from pinrec_core.release.calibration import (
    CALIBRATION_REQUESTS,
    DISCOUNTS,
    STRENGTHS,
    KnownRequest,
    calibrate_discounts,
    calibrate_strength,
    first_of_the_best,
)
from tests.pinrec_core.conftest import indexed_model


def test_discounts_are_the_first_that_serve_the_calibration_users_about_as_well_as_any(run, dataset):
    task = task_for_subjects([str(run.folder)], targets=4)
    cases = task.calibration_cases(ItemCatalogue.open(dataset))[:CALIBRATION_REQUESTS]
    calibrated = open_run(str(run.folder), task).indexed
    assert calibrated.generation.steps > 1
    assert len(calibrated.generation.offsets) > 1

    def hits(**discounts: float) -> np.ndarray:
        indexed = replace(calibrated, generation=replace(calibrated.generation, **discounts))
        answers = ModelSubject("run", indexed).answer(cases, depth=1, num_items=100).served
        return np.array([np.isin(case.target_row, rows).sum() for case, rows in zip(cases, answers, strict=True)])

    by_offset = np.stack([hits(step_discount=1.0, offset_discount=d) for d in DISCOUNTS["offset_discount"]], axis=1)
    offset_discount = DISCOUNTS["offset_discount"][first_of_the_best(by_offset)]
    assert calibrated.generation.offset_discount == offset_discount
    by_step = np.stack(
        [hits(step_discount=d, offset_discount=offset_discount) for d in DISCOUNTS["step_discount"]], axis=1
    )
    assert calibrated.generation.step_discount == DISCOUNTS["step_discount"][first_of_the_best(by_step)]


def test_what_cannot_matter_or_has_nobody_to_go_by_is_not_calibrated(run, dataset):
    task = task_for_subjects([str(run.folder)], targets=4)
    calibrated = open_run(str(run.folder), task).indexed
    cases = task.calibration_cases(ItemCatalogue.open(dataset))
    known = [known_request(case, calibrated.default_budget) for case in cases]
    one = replace(calibrated, generation=replace(calibrated.generation, steps=1, offsets=(1,), step_discount=1.0))
    assert calibrate_discounts(one, known) is one
    assert calibrate_discounts(calibrated, []) is calibrated
    assert calibrate_strength(calibrated, []) is calibrated


def test_an_outcome_steers_as_strongly_as_serves_its_own_targets(run, dataset):
    """The targets of each request are what the model itself serves for one outcome at strength 1.5 and no other."""
    task = task_for_subjects([str(run.folder)], targets=4)
    calibrated = open_run(str(run.folder), task).indexed
    cases = task.calibration_cases(ItemCatalogue.open(dataset))[:64]
    O = calibrated.model.config.num_conditions

    def served(case, outcome: int, strength: float) -> np.ndarray:
        request = replace(case.request(np.eye(O)[outcome]), num_items=20, strength=strength)
        (answer,) = calibrated.answer([request])
        return answer.item_row

    known = []
    for case in cases:
        rows = [served(case, outcome, 1.5 if outcome == 1 else 0.0)[:4] for outcome in (0, 1)]
        known.append(
            KnownRequest(
                user_id=case.user_id,
                request=replace(case.request(calibrated.default_budget), num_items=20),
                target_row=np.concatenate(rows),
                target_outcome=np.repeat([0, 1], [len(rows[0]), len(rows[1])]),
            )
        )
    strength = calibrate_strength(calibrated, known).generation.strength
    assert strength[:2] == (0.0, 1.5)
    assert strength[2:] == (STRENGTHS[0],) * (O - 2)  # nobody had a target of these


def test_chance_decides_nothing():
    """Of four requests one found more with the third candidate; of four hundred, a quarter did."""
    few = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 2], [1, 1, 1]])
    assert first_of_the_best(few) == 0
    assert first_of_the_best(np.tile(few, (100, 1))) == 2
    assert first_of_the_best(np.zeros((0, 3))) == 0
    assert first_of_the_best(np.array([[0, 2], [0, 3]])) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "another"},  # of the same sizes
        {"item_id_kind": "string"},
        {"outcomes": ["hide", "click", "save"]},  # the same ones under other numbers
        {"surfaces": ["", "home"]},
        {"feature_space": "minilm"},
    ],
)
def test_another_dataset_than_the_run_was_trained_on_is_refused(run, dataset, tmp_path, changed):
    other = shutil.copytree(dataset, tmp_path / "other")
    manifest = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(manifest | changed))
    (name,) = changed
    with pytest.raises(DataError, match=f"{name}=.*: expected .*, which the model was trained with"):
        indexed_model(run, other)
