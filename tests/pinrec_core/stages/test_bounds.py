"""What a stage refuses of tensors that no stage before it made: every bound, on both of its sides, by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pinrec_core.config.sections import GenerationConfig, Variant
from pinrec_core.errors import InvalidRequestError
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.history import History
from pinrec_core.limits import FEATURE_VALUE, REQUEST_TIME
from pinrec_core.request import Request
from pinrec_core.stages.bounds import check_id_embedding, check_plan, check_request
from pinrec_core.stages.packing import decode_plan, decode_request, encode_plan, encode_request
from tests.pinrec_core.builders import SURFACES, F, O, random_history, tiny_config

MODEL = tiny_config()
GENERATION = GenerationConfig(steps=2, offsets=(1, 2), max_num_items=50)
D = 8


def request(length: int = 5, **changes: object) -> Request:
    values: dict = {"surface": 1, "time": 1_650_000_000, "seed": 0, "budget": np.array([0.5, 0.3, 0.2]), "num_items": 9}
    return Request(history=random_history(length, 1), **(values | changes))


def with_history(name: str, value: float, position: int = 3) -> Request:
    known = request()
    values = getattr(known.history, name).copy()
    values[position] = value
    return replace(known, history=replace(known.history, **{name: values}))


def plan(M: int = 3, **changes: object) -> RetrievalPlan:
    embedding = np.zeros((M, D), np.float32)
    embedding[:, 0] = 1
    values: dict = {"embedding": embedding, "outcome": np.arange(M) % O, "quota": np.full(M, 2)}
    return decode_plan(encode_plan(RetrievalPlan(**(values | changes))))


def check(made: RetrievalPlan) -> None:
    check_plan(made, width=D, outcomes=O, generation=GENERATION)


@pytest.mark.parametrize(
    "allowed",
    [
        request(0),
        request(MODEL.max_history),
        request(surface=SURFACES - 1, seed=(1 << 63) - 1, num_items=50, time=REQUEST_TIME.most),
        request(surface=0, seed=0, num_items=1, time=0, budget=np.array([0.0, 0.0, 1.001])),
        with_history("surface", SURFACES - 1),
        with_history("timestamp", 0),
        with_history("scale", FEATURE_VALUE.most / 127),
    ],
)
def test_a_request_at_its_bounds_is_taken(allowed):
    check_request(decode_request(encode_request(allowed)), MODEL, GENERATION)


REFUSED = {
    "packed_request num_items=0: expected 1 to 50": request(num_items=0),
    "packed_request num_items=51: expected 1 to 50": request(num_items=51),
    "packed_request surface=-1: expected 0 to 3": request(surface=-1),
    "packed_request surface=4: expected 0 to 3": request(surface=SURFACES),
    "packed_request time=-1: expected 0 to": request(time=-1),
    "packed_request time=253402300800: expected": request(time=REQUEST_TIME.most + 1),
    "packed_request seed=-1: expected a number of at least 0": request(seed=-1),
    "packed_request budget has 2 weights: expected 3": request(budget=np.array([0.5, 0.5])),
    "packed_request budget has 0 weights: expected 3": request(budget=np.empty(0)),
    "packed_request budget=[1.5, -0.5, 0.0]: expected weights": request(budget=np.array([1.5, -0.5, 0])),
    "packed_request budget=[nan, 0.5, 0.5]: expected weights": request(budget=np.array([np.nan, 0.5, 0.5])),
    "packed_request budget=[inf, 0.5, 0.5]: expected weights": request(budget=np.array([np.inf, 0.5, 0.5])),
    "packed_request budget=[0.5, 0.25, 0.0]: expected weights": request(budget=np.array([0.5, 0.25, 0])),
    "history has T=25: expected at most 24": request(25),
    "history surface[3]=4: expected 0 to 3": with_history("surface", SURFACES),
    "history surface[3]=-1: expected 0 to 3": with_history("surface", -1),
    "history item_type[3]=2: expected 0 to 1": with_history("item_type", 2),
    "history timestamp[3]=-5: expected 0 to": with_history("timestamp", -5),
    "history scale[3]=nan: expected 0 to": with_history("scale", np.nan),
    "history scale[3]=inf: expected 0 to": with_history("scale", np.inf),
    "history scale[3]=-1.0: expected 0 to": with_history("scale", -1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_request_beyond_a_bound_is_refused(message):
    decoded = decode_request(encode_request(REFUSED[message]))
    with pytest.raises(InvalidRequestError) as refused:
        check_request(decoded, MODEL, GENERATION)
    assert str(refused.value).startswith(message)


def test_a_history_of_another_width_and_one_of_no_positions_but_a_huge_width_are_refused():
    wide = replace(random_history(0, 1), feature=np.zeros((0, F + 1), np.int8))
    data = encode_request(replace(request(0), history=wide))
    with pytest.raises(InvalidRequestError, match=f"history feature has width {F + 1}: expected {F}"):
        check_request(decode_request(data), MODEL, GENERATION)
    data[8:12] = 255  # the width that the header claims; without positions no byte follows from it
    with pytest.raises(InvalidRequestError, match="history feature has width 4294967295"):
        check_request(decode_request(data), MODEL, GENERATION)


def test_a_model_without_outcomes_has_one_weight():
    check_request(request(budget=np.ones(1)), tiny_config(Variant.MT), GENERATION)
    with pytest.raises(InvalidRequestError, match="budget has 3 weights: expected 1"):
        check_request(request(), tiny_config(Variant.MT), GENERATION)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_id_embeddings_are_finite_and_of_the_history(value):
    embedding = np.full((4, MODEL.id_width), 65_504, np.float16)  # the largest finite number
    check_id_embedding(embedding, 4, MODEL)
    check_id_embedding(embedding[:0], 0, MODEL)
    with pytest.raises(InvalidRequestError, match=r"shape \[4, 8\]: expected \[3, 8\]"):
        check_id_embedding(embedding, 3, MODEL)
    embedding[2, 1] = value
    with pytest.raises(InvalidRequestError, match="history_id_embedding holds a value that is not finite"):
        check_id_embedding(embedding, 4, MODEL)


def test_a_plan_at_its_bounds_is_taken():
    check(plan())
    check(plan(M=12))
    check(plan(quota=np.array([1, 1, 48])))
    half = np.random.default_rng(0).normal(size=(3, D)).astype(np.float32)
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    check(plan(embedding=half.astype(np.float16)))


REFUSED_PLANS = {
    "embedding has width 9: expected 8": plan(embedding=np.eye(3, 9)),
    "retrieval_plan has 0 embeddings: expected 1 to 12": plan(M=0),
    "retrieval_plan has 13 embeddings: expected 1 to 12": plan(M=13),
    "retrieval_plan outcome=[0, 1, 3]: expected 0 to 2": plan(outcome=np.array([0, 1, O])),
    "retrieval_plan outcome=[0, -1, 2]: expected 0 to 2": plan(outcome=np.array([0, -1, 2])),
    "retrieval_plan quota=[1, 0, 1]: expected numbers of at least 1": plan(quota=np.array([1, 0, 1])),
    "retrieval_plan quota=[1, 1, 49]: expected": plan(quota=np.array([1, 1, 49])),
    "retrieval_plan quota=[2147483647, 2147483647, 2]: expected": plan(quota=np.array([2**31 - 1, 2**31 - 1, 2])),
} | {
    f"retrieval_plan embedding is not of length 1: expected unit vectors of finite values{' ' * n}": plan(
        embedding=np.where(np.eye(3, D) == 1, np.array([1, value, 1])[:, None], 0)
    )
    for n, value in enumerate((0.0, 0.9, 1.1, np.nan, np.inf, 1e30))
}


@pytest.mark.parametrize("message", REFUSED_PLANS)
def test_a_plan_beyond_a_bound_is_refused(message):
    with pytest.raises(InvalidRequestError) as refused, np.errstate(all="ignore"):
        check(REFUSED_PLANS[message])
    assert str(refused.value).startswith(message.strip())


def test_checks_are_of_what_the_decoder_hands_over():
    """The decoded history holds no keys, so that the checks above are of everything that the model reads."""
    read = {"surface", "item_type", "timestamp", "scale", "feature"}
    assert set(History.__slots__) - read == {"item_key", "outcome"}
