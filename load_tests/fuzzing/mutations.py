"""Breaks a valid request in one place, so that it is nearly valid, or makes one of random parts.

All draws come from the ``Random`` that a caller gives: the same number makes the same request again.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from random import Random

from tritonclient.grpc.service_pb2 import ModelInferRequest

from load_tests.fuzzing.messages import Case, Tensor, texts
from pinrec_core import limits

DATATYPES = ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "UINT64", "FOO", "")
SIZE = {
    "BOOL": 1,
    "UINT8": 1,
    "INT8": 1,
    "INT16": 2,
    "FP16": 2,
    "INT32": 4,
    "FP32": 4,
    "INT64": 8,
    "FP64": 8,
    "UINT64": 8,
}
LENGTHS = sorted(
    {limit.most + near for limit in (limits.ID, limits.NAME, limits.QUERY, limits.EVENT_ID) for near in (-1, 0, 1)}
)
WHOLE = (0, 1, -1, 2, 3000, 3001, (1 << 31) - 1, -(1 << 31), limits.REQUEST_TIME.most, limits.REQUEST_TIME.most + 1,
         (1 << 63) - 1, -(1 << 63), 1_700_000_000_000)  # fmt: skip
REAL = (math.nan, math.inf, -math.inf, -1.0, 0.0, 0.5, 1.0, 1.003, 1e-45, 1e30, 1000.0, 1000.1)
TEXT = (
    b"", b" ", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", "\ufdfa".encode() * 300, "é\u202e\u0301".encode(),
    b"%s%n{}", b"a\nb\tc", b"y" * 100_000, *(b"x" * n for n in LENGTHS), *("é".encode() * (n // 2) for n in LENGTHS),
)  # fmt: skip
PARAMETERS = ("priority", "timeout", "sequence_id", "sequence_start", "triton_enable_empty_final_response", "unknown")

Mutation = Callable[[Random, Case], Case]


def mutated(random: Random, case: Case) -> Case:
    """The valid ``case`` with one thing changed. It may be valid still."""
    return random.choice(MUTATIONS)(random, case)


def random_case(random: Random, models: tuple[str, ...], known: Case) -> Case:
    """A request of random parts: bytes that are no message, or tensors of random type, shape and content."""
    model = random.choice((*models, "", "no_such_model", "signal_fetch", "x" * 300))
    if random.random() < 0.2:
        raw = random.randbytes(random.choice((0, 1, 5, 40, 400, 5000)))
        return Case(model="?", raw=raw, change="random bytes")
    names = [tensor.name for tensor in known.tensors]
    chosen = random.sample(names, random.randint(0, len(names)))
    if random.random() < 0.2:
        chosen.append(random.choice(("unknown", "", "user_id", "x" * 1000)))
    return Case(
        model=model if random.random() < 0.3 else known.model,
        tensors=tuple(_random_tensor(random, name) for name in chosen),
        change="random tensors",
    )


def _random_tensor(random: Random, name: str) -> Tensor:
    datatype = random.choice(DATATYPES)
    shape = tuple(random.choice((0, 1, 1, 1, 2, 3, 17, 256)) for _ in range(random.choice((0, 1, 2, 2, 2, 3))))
    count = min(math.prod(shape), 20_000)
    if random.random() < 0.3:
        return Tensor(name, datatype, shape, random.randbytes(random.randrange(64)))
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, texts([random.randbytes(random.randrange(12)) for _ in range(count)]))
    return Tensor(name, datatype, shape, random.randbytes(count * SIZE.get(datatype, 1)))


def _datatype(random: Random, case: Case) -> Case:
    tensor = random.choice(case.tensors)
    return case.with_tensor(tensor, replace(tensor, datatype=random.choice(DATATYPES)), "another element type")


def _shape(random: Random, case: Case) -> Case:
    tensor = random.choice(case.tensors)
    B, *rest = tensor.shape
    shape = random.choice((
        (), (B,), tuple(rest), (B, *rest, 1), (1, B, *rest), (*rest, B), (0, *rest), (2, *rest), (33, *rest),
        (-1, *rest), (B, -1), (B, 0), (B, rest[0] + 1), (B, rest[0] - 1), (B, 1 << 31), (B, 1 << 62),
        (1 << 32, 1 << 32),
    ))  # fmt: skip
    return case.with_tensor(tensor, replace(tensor, shape=shape), "another shape, same bytes")


def _rows(random: Random, case: Case) -> Case:
    """Two rows or none, in one tensor or in all of them, with the bytes that belong to it."""
    n = random.choice((0, 2, 3, 33))
    chosen = case.tensors if random.random() < 0.5 else (random.choice(case.tensors),)
    tensors = tuple(
        replace(t, shape=(n, *t.shape[1:]), raw=t.raw * n) if any(t is c for c in chosen) else t for t in case.tensors
    )
    return replace(case, tensors=tensors, change="another number of rows")


def _length(random: Random, case: Case) -> Case:
    """One element more or less, or none, with the bytes that belong to it."""
    tensor = random.choice(case.tensors)
    if len(tensor.shape) != 2:
        return _bits(random, case)
    values = tensor.values()
    values = random.choice((values[:-1], values[1:], [*values, *values[-1:]], [], values * 2, values * 40))
    return case.with_tensor(tensor, Tensor.of(tensor.name, tensor.datatype, values), "another number of elements")


def _value(random: Random, case: Case) -> Case:
    """A value at a bound, beside it, or that is none."""
    tensor = random.choice(case.tensors)
    size = SIZE.get(tensor.datatype)
    if tensor.datatype == "BYTES":
        values = tensor.values()
        if not values:
            return _length(random, case)
        values[random.randrange(len(values))] = random.choice(TEXT)
        return case.with_tensor(tensor, Tensor.of(tensor.name, "BYTES", values), "a text at a bound")
    if size is None or len(tensor.raw) < size:
        return _length(random, case)
    if tensor.datatype == "FP32":
        value = struct.pack("<f", random.choice(REAL))
    else:
        value = (random.choice(WHOLE) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    at = random.randrange(len(tensor.raw) // size) * size
    raw = tensor.raw[:at] + value + tensor.raw[at + size :]
    return case.with_tensor(tensor, replace(tensor, raw=raw), "a number at a bound")


def _word(random: Random, case: Case) -> Case:
    """Four or eight aligned bytes of another value: in packed bytes, a length, a number or an element."""
    tensor = random.choice(case.tensors)
    size = random.choice((1, 2, 4, 8))
    if len(tensor.raw) < size:
        return _length(random, case)
    within = min(len(tensor.raw), 64) if random.random() < 0.6 else len(tensor.raw)  # headers come first
    at = random.randrange(max(within // size, 1)) * size
    value = random.choice((
        (random.choice(WHOLE) & ((1 << 8 * size) - 1)).to_bytes(size, "little"),
        struct.pack("<d", random.choice(REAL))[-size:],
        random.randbytes(size),
    ))  # fmt: skip
    if size == 4:
        value = random.choice((value, struct.pack("<f", random.choice(REAL))))
    raw = tensor.raw[:at] + value + tensor.raw[at + size :]
    return case.with_tensor(tensor, replace(tensor, raw=raw), "another word")


def _bits(random: Random, case: Case) -> Case:
    tensor = random.choice(case.tensors)
    raw = bytearray(tensor.raw)
    for _ in range(random.randint(1, 8) if raw else 0):
        within = min(len(raw), 64) if random.random() < 0.5 else len(raw)
        raw[random.randrange(within)] ^= 1 << random.randrange(8)
    return case.with_tensor(tensor, replace(tensor, raw=bytes(raw)), "flipped bits")


def _bytes(random: Random, case: Case) -> Case:
    """Bytes are missing or left over, under the same shape."""
    tensor = random.choice(case.tensors)
    raw = tensor.raw
    cut = random.randrange(len(raw)) if raw else 0
    raw = random.choice((raw[:-1], raw[:cut], raw + b"\x00", raw + random.randbytes(8), b"", raw * 2))
    return case.with_tensor(tensor, replace(tensor, raw=raw), "bytes missing or left over")


def _packed_length(random: Random, case: Case) -> Case:
    """Packed bytes that are shorter or longer, with the shape that belongs to them."""
    packed = [tensor for tensor in case.tensors if tensor.datatype == "UINT8"]
    if not packed:
        return _bytes(random, case)
    tensor = random.choice(packed)
    raw = random.choice(
        (tensor.raw[:-1], tensor.raw[: random.randrange(len(tensor.raw))], tensor.raw + b"\x00" * 8, b"")
    )
    return case.with_tensor(tensor, replace(tensor, raw=raw, shape=(1, len(raw))), "packed bytes of another length")


def _length_prefix(random: Random, case: Case) -> Case:
    """A text that claims to be longer or shorter than it is."""
    chosen = [tensor for tensor in case.tensors if tensor.datatype == "BYTES" and tensor.raw]
    if not chosen:
        return _bits(random, case)
    tensor = random.choice(chosen)
    (size,) = struct.unpack_from("<I", tensor.raw)
    claimed = random.choice((0xFFFFFFFF, 0x7FFFFFFF, size + 1, max(size - 1, 0), 0))
    raw = struct.pack("<I", claimed) + tensor.raw[4:]
    return case.with_tensor(tensor, replace(tensor, raw=raw), "a text of another length than it claims")


def _missing(random: Random, case: Case) -> Case:
    kept = random.sample(case.tensors, len(case.tensors) - random.choice((1, len(case.tensors))))
    return replace(case, tensors=tuple(kept), change="a tensor is missing")


def _extra(random: Random, case: Case) -> Case:
    tensor = random.choice(case.tensors)
    name = random.choice(("unknown", "", "x" * 1000, "seed", "packed_request", tensor.name.upper()))
    return replace(case, tensors=(*case.tensors, replace(tensor, name=name)), change="a tensor too many")


def _twice(random: Random, case: Case) -> Case:
    """Two inputs of one name, the same or not."""
    tensor = random.choice(case.tensors)
    again = random.choice((tensor, replace(tensor, raw=tensor.raw[::-1])))
    tensors = [*case.tensors, again]
    random.shuffle(tensors)
    return replace(case, tensors=tuple(tensors), change="two tensors of one name")


def _edit(random: Random, case: Case) -> Case:
    """The message around the tensors: contents that do not match, outputs, version, id, parameters, shared memory."""
    number, name = random.randrange(1 << 30), random.choice(PARAMETERS)

    def contents_left_over(message: ModelInferRequest) -> None:
        message.raw_input_contents.append(b"\x01\x02")

    def contents_missing(message: ModelInferRequest) -> None:
        del message.raw_input_contents[-1]

    def no_contents(message: ModelInferRequest) -> None:
        del message.raw_input_contents[:]

    def both_contents(message: ModelInferRequest) -> None:
        message.inputs[0].contents.int64_contents.append(number)

    def typed_contents(message: ModelInferRequest) -> None:
        del message.raw_input_contents[:]
        for put in message.inputs:
            put.contents.int64_contents.extend([1, 2, number])
            put.contents.bytes_contents.append(b"\xff")

    def unknown_output(message: ModelInferRequest) -> None:
        message.outputs.add(name=random.choice(("unknown", "", "item_id")))

    def version(message: ModelInferRequest) -> None:
        message.model_version = random.choice(("2", "-1", "abc", "1" * 400))

    def request_id(message: ModelInferRequest) -> None:
        message.id = random.choice(("i" * 20_000, "\x00", "é\n"))

    def parameter(message: ModelInferRequest) -> None:
        message.parameters[name].int64_param = random.choice((0, -1, 1, number, 1 << 62))

    def parameter_of_another_type(message: ModelInferRequest) -> None:
        message.parameters[name].string_param = "x" * random.choice((0, 1, 5000))

    def shared_memory(message: ModelInferRequest) -> None:
        put = message.inputs[0].parameters
        put["shared_memory_region"].string_param = "none"
        put["shared_memory_byte_size"].int64_param = random.choice((0, -1, 1 << 62))
        put["shared_memory_offset"].int64_param = random.choice((0, -1, 1 << 62))

    edit = random.choice((
        contents_left_over, contents_missing, no_contents, both_contents, typed_contents, unknown_output, version,
        request_id, parameter, parameter_of_another_type, shared_memory,
    ))  # fmt: skip
    # Encoded here, since an edit draws from the same random numbers.
    return Case(
        model=case.model, raw=replace(case, edit=edit).encode(), change=f"message: {edit.__name__.replace('_', ' ')}"
    )


def _message(random: Random, case: Case) -> Case:
    """The protobuf message itself is cut off, or has wrong bytes at its beginning."""
    raw = bytearray(case.encode())
    if random.random() < 0.5:
        raw = raw[: random.randrange(len(raw))]
    else:
        for _ in range(random.randint(1, 4)):
            raw[random.randrange(min(len(raw), 200))] = random.randrange(256)
    return Case(model=case.model, raw=bytes(raw), change="damaged message")


MUTATIONS: tuple[Mutation, ...] = (
    _datatype, _shape, _rows, _length, _value, _value, _value, _word, _word, _bits, _bytes, _packed_length,
    _length_prefix, _missing, _extra, _twice, _edit, _message,
)  # fmt: skip
"""Values come more often than the rest, because there are more of them."""
