"""The tiny run of the package's tests behind its index, and the held-out users of its log."""

from __future__ import annotations

import pytest

from pinrec_core.evaluation.cases import EvaluationCase, held_out_cases
from pinrec_core.evaluation.subjects import ModelSubject
from tests.pinrec_core.conftest import EVALUATION_SHARE


@pytest.fixture(scope="session")
def subject(serving) -> ModelSubject:
    return ModelSubject("tiny", serving)


@pytest.fixture(scope="session")
def cases(dataset, serving) -> list[EvaluationCase]:
    return list(held_out_cases(dataset, serving.catalogue, share=EVALUATION_SHARE, targets=4))
