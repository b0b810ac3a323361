"""A run is indexed with the dataset it was trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.errors import DataError
from pinrec_core.evaluation.opening import open_run, task_for_subjects
from pinrec_core.evaluation.subjects import ModelSubject
from pinrec_core.release.calibration import STEP_DISCOUNTS, KnownRequest, calibrate_step_discount
from tests.pinrec_core.conftest import indexed_model


def test_the_step_discount_is_the_one_that_serves_the_calibration_users_best(run, dataset):
    task = task_for_subjects([str(run.folder)], targets=4)
    cases = task.calibration_cases(ItemCatalogue.open(dataset))
    calibrated = open_run(str(run.folder), task).indexed
    assert calibrated.generation.steps > 1

    def hits(discount: float) -> int:
        indexed = replace(calibrated, generation=replace(calibrated.generation, step_discount=discount))
        subject = ModelSubject("run", indexed)
        answers = subject.answer(cases, depth=1, num_items=100).served
        return sum(int(np.isin(case.target_row, rows).sum()) for case, rows in zip(cases, answers, strict=True))

    found = {discount: hits(discount) for discount in STEP_DISCOUNTS}
    assert found[calibrated.generation.step_discount] == max(found.values())
    one_step = replace(calibrated, generation=replace(calibrated.generation, steps=1, step_discount=1.0))
    budget = calibrated.default_budget
    known = [
        KnownRequest(
            user_id=case.user_id,
            request=case.request(budget),
            target_row=case.target_row,
            target_outcome=case.target_outcome,
        )
        for case in cases
    ]
    assert calibrate_step_discount(one_step, known) is one_step
    assert calibrate_step_discount(calibrated, []) is calibrated


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
