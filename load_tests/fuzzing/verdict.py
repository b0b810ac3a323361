"""What an answer to a malformed request says about the service: nothing, or a finding."""

from __future__ import annotations

import math
import re

from load_tests.fuzzing.messages import Answer, Case, are_texts
from load_tests.fuzzing.valid import ENSEMBLE
from pinrec_core.contract import PARTS, RESPONSE, SOURCES

REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}
"""The request is at fault, or what it names or asks for does not exist."""

EXPLAINED: tuple[tuple[str, str, str], ...] = (
    ("INTERNAL", "Unable to parse request", "are no protobuf message: gRPC itself answers so, before Triton sees them"),
    (
        "INTERNAL",
        "max allowed is 32",
        "have more rows than a batch: Triton refuses those of some shapes only in the backend",
    ),
    ("CANCELLED", "the caller has stopped waiting", "carry a deadline that is over"),
)
"""Other answers that are right: status, what the message contains, and why."""

_LEAK = re.compile(r"Traceback|File \"|\.py\b|/site-packages/|/home/|/tmp/|secret", re.IGNORECASE)
_MOST_MESSAGE_BYTES = 4096
_WORDS = ({word.encode() for word in SOURCES}, {word.encode() for word in PARTS})


def left_out(case: Case) -> bool:
    """Whether Triton 2.51 cannot cope with a request, so that it is sent only where the front refuses it.

    Of tensors that all have no rows and no bytes it never answers; and it never unloads a model that was sent them, or
    several texts at once of which one is longer than its tensor. A shape whose bytes exceed 64 bits ends the process of
    the stage that is given it.
    """
    if case.raw is not None or not case.tensors:
        return False
    empty = all(tensor.shape[:1] == (0,) and not tensor.raw for tensor in case.tensors)
    return empty or any(
        math.prod(map(abs, t.shape)) >= 1 << 60 or (t.datatype == "BYTES" and not are_texts(t.raw))
        for t in case.tensors
    )


def finding(case: Case, answer: Answer) -> str | None:
    """What is wrong with an answer, or None."""
    if answer.code == "OK":
        return _wrong_items(answer) if case.model == ENSEMBLE else None
    if answer.refused_by_front:
        return None
    if leak := _LEAK.search(answer.message):
        return f"the message tells {leak.group()!r}: {answer.message[:300]}"
    if len(answer.message.encode()) > _MOST_MESSAGE_BYTES:
        return f"the message has {len(answer.message.encode())} bytes: {answer.message[:100]}"
    if answer.code in REFUSALS or explanation(answer) is not None:
        return None
    return f"{answer.code}: {answer.message[:300]}"


def explanation(answer: Answer) -> str | None:
    """Why a status that looks like a fault of the service is none."""
    for code, words, why in EXPLAINED:
        if answer.code == code and words in answer.message:
            return why
    return None


def _wrong_items(answer: Answer) -> str | None:
    """An ensemble that takes a request has to answer it well."""
    if len(answer.tensors) < len(RESPONSE):  # it asked for some of the outputs alone
        return None
    items, scores, outcomes = [answer.column(name) for name in ("item_id", "score", "outcome")]
    if not len(items) == len(scores) == len(outcomes) or len(answer.column("release")) != 1:
        return f"an answer of {len(items)} items, {len(scores)} scores and {len(outcomes)} outcomes"
    if len(set(items)) != len(items):
        return "an item is in an answer twice"
    if not all(map(math.isfinite, scores)):
        return "a score is not finite"
    source, *unavailable = answer.column("history_source")
    if source not in _WORDS[0] or len(unavailable) != 1 or unavailable[0] not in _WORDS[1]:
        return f"history_source is {[source, *unavailable]}"
    return None
