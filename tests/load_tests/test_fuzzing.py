"""The parts of the fuzzer that need no server: what is sent, and what is made of an answer.

``tests/end_to_end/test_fuzzing.py`` runs all of it against the real one.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from load_tests.fuzzing.messages import Answer, Case, Tensor
from load_tests.fuzzing.mutations import MUTATIONS, mutated, random_case
from load_tests.fuzzing.neighbours import CHANGED, FAILED, IDENTICAL, ROUNDED, compare
from load_tests.fuzzing.verdict import explanation, finding, left_out

VALID = Case(
    model="pinrec",
    tensors=(
        Tensor.of("user_id", "INT64", [405]),
        Tensor.of("budget", "FP32", [0.75, 0.25]),
        Tensor.of("budget_outcome", "BYTES", [b"like", b"neutral"]),
        Tensor("packed_request", "UINT8", (1, 80), bytes(80)),
    ),
)


def test_a_valid_case_travels_as_a_client_would_send_it():
    message = ModelInferRequest.FromString(VALID.encode())
    assert message.model_name == "pinrec"
    assert [(t.name, t.datatype, list(t.shape)) for t in message.inputs][2] == ("budget_outcome", "BYTES", [1, 2])
    assert message.raw_input_contents[0] == np.int64(405).tobytes()
    assert [tensor.values() for tensor in VALID.tensors[:3]] == [[405], [0.75, 0.25], [b"like", b"neutral"]]


@pytest.mark.parametrize("mutation", set(MUTATIONS), ids=lambda mutation: mutation.__name__)
def test_each_mutation_changes_the_message_and_repeats_with_its_number(mutation):
    changed = 0
    for number in range(60):
        case = mutation(Random(number), VALID)
        assert case.change != "none"
        assert case.encode() == mutation(Random(number), VALID).encode()
        changed += case.encode() != VALID.encode()
    assert changed >= 30, "half of the draws may be of what was there already"


def test_random_cases_are_of_all_kinds():
    cases = [random_case(Random(number), ("pinrec", "signal_ingest"), VALID) for number in range(300)]
    assert set(Counter(case.change for case in cases)) == {"random bytes", "random tensors"}
    assert {"pinrec", "?", "no_such_model"} <= {case.model for case in cases}
    assert all(isinstance(case.encode(), bytes) for case in cases)


def test_most_mutations_are_small():
    for number in range(200):
        assert len(mutated(Random(number), VALID).encode()) < 300_000


def answer(
    items=(1, 2, 3), scores=(0.5, 0.4, 0.3), outcomes=(b"a", b"a", b"b"), history=(b"both", b""), code="OK"
) -> Answer:
    if code != "OK":
        return Answer(code=code, message="gone")
    return Answer(
        code=code,
        tensors=(
            Tensor.of("item_id", "INT64", items), Tensor.of("score", "FP32", scores),
            Tensor.of("outcome", "BYTES", outcomes), Tensor.of("release", "BYTES", [b"r1"]),
            Tensor.of("history_source", "BYTES", history),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (answer(), IDENTICAL),
        (answer(scores=(0.500001, 0.4, 0.3)), ROUNDED),
        (answer(items=(1, 2, 9)), ROUNDED),  # the last place may go to an item that was not returned
        (answer(items=(2, 1, 3)), CHANGED),
        (answer(items=(9, 2, 3)), CHANGED),
        (answer(scores=(0.5, 0.41, 0.3)), CHANGED),
        (answer(outcomes=(b"a", b"b", b"b")), CHANGED),
        (answer(items=(1, 2), scores=(0.5, 0.4), outcomes=(b"a", b"a")), CHANGED),
        (answer(code="INTERNAL"), FAILED),
    ],
)
def test_a_neighbour_may_differ_by_rounding_alone(got, expected):
    assert compare(answer(), got) == expected


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (answer(), None),
        (answer(items=(1, 1, 3)), "twice"),
        (answer(scores=(0.5, float("nan"), 0.3)), "not finite"),
        (answer(outcomes=(b"a",)), "1 outcomes"),
        (answer(history=(b"elsewhere", b"")), "elsewhere"),
        (Answer(code="INVALID_ARGUMENT", message="seed=-1: expected a number of at least 0"), None),
        (Answer(code="NOT_FOUND", message="unknown model"), None),
        (Answer(code="INTERNAL", message="internal error (ValueError)"), "INTERNAL"),
        (Answer(code="UNKNOWN", message=""), "UNKNOWN"),
        (Answer(code="DEADLINE_EXCEEDED", message=""), "DEADLINE_EXCEEDED"),
        (Answer(code="UNAVAILABLE", message="the store is closed"), "UNAVAILABLE"),
        (Answer(code="UNAVAILABLE", message="busy", refused_by_front=True), None),
        (Answer(code="INVALID_ARGUMENT", message='File "x.py", line 3'), "tells"),
        (Answer(code="INVALID_ARGUMENT", message="x" * 5000), "5000 bytes"),
        (Answer(code="INTERNAL", message="Unable to parse request"), None),
    ],
)
def test_verdicts(got, words):
    found = finding(VALID, got)
    assert (found is None) if words is None else (words in str(found))


def test_only_known_faults_of_others_are_explained():
    assert explanation(Answer(code="INTERNAL", message="Unable to parse request")) is not None
    assert explanation(Answer(code="UNKNOWN", message="Unable to parse request")) is None


def test_what_triton_does_not_survive_is_left_out_and_nothing_else():
    none = Tensor("event_id", "BYTES", (0, 0), b"")
    assert left_out(Case(model="signal_ingest", tensors=(none, none)))
    assert left_out(Case(model="pinrec", tensors=(VALID.tensors[0], Tensor("budget", "FP32", (1, 1 << 62), b""))))
    assert left_out(Case(model="signal_fetch__r1", tensors=(Tensor("query", "BYTES", (1, 1), b"\x05\0\0\0text"),)))
    assert not left_out(VALID)
    assert not left_out(Case(model="signal_ingest", tensors=(none, VALID.tensors[0])))
    assert not left_out(Case(model="signal_ingest", tensors=(Tensor("event_id", "BYTES", (1, 0), b""),)))
    assert not left_out(Case(model="signal_ingest"))
