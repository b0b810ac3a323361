"""The ID embedder: packed tables against one ``index_select`` of the same rows from a table in FP32.

Keys follow Zipf's law and are fresh in every call: repeated keys measure the cache. The baseline is given rows and
not keys, so the ratio shows what hashing adds to a plain lookup, and what smaller rows save. The last table has a
production size, far beyond all caches; the others are those of the presets.
"""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.floors import Floor, copy_floor
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row, Value, compare
from benchmarks.timing import time_together
from pinrec_core.config.presets import PRESETS
from pinrec_core.representations.id_embedding import HashedIdEmbedding
from pinrec_core.representations.id_tables import IdTables, RowFormat

BASELINE = "index_select, FP32"
POSITIONS = (128, 512)
BATCHES = (1, 4, 32)
FLOAT_BYTES = 4
KEYS = 20_000_000
"""Items of the catalogue that keys are drawn from."""
DRAWN_KEYS = 1 << 22
"""Keys that are drawn before anything is timed. A function comes back to the first of them when it has used all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A size of the ID tables: ``rows`` in each of ``hashes`` tables, and ``width`` of an ID embedding."""

    name: str
    rows: int
    width: int
    hashes: int


def tables(options: Options) -> Iterator[Table]:
    """The presets' tables, and unless ``--quick`` one with 16.8M rows of each hash: as 16.8M × 64 in one table."""
    for name in options.presets:
        model = PRESETS[name].model
        yield Table(name=name, rows=model["id_rows"], width=model["id_width"], hashes=model["id_hashes"])
    if not options.quick:
        yield Table(name="16.8M x 64", rows=1 << 24, width=64, hashes=2)


@torch.inference_mode()
def run(options: Options, progress: Progress) -> Result:
    rows: list[Row] = []
    floors: list[Floor] = []
    keys = zipf_keys(np.random.default_rng(0), DRAWN_KEYS)
    for table in tables(options):
        progress(f"{table.name}: making tables")
        module = HashedIdEmbedding(width=table.width, hashes=table.hashes, rows=table.rows).eval()
        packed = {row_format: IdTables.pack(module, row_format) for row_format in RowFormat}
        for T in POSITIONS[:1] if options.quick else POSITIONS:
            for B in BATCHES:
                case: Mapping[str, Value] = {
                    "table": table.name, "rows": table.rows, "I": table.width, "K": table.hashes, "T": T, "B": B,
                }  # fmt: skip
                progress(" ".join(f"{k}={v}" for k, v in case.items()))
                floor = copy_floor(B * T * table.width * FLOAT_BYTES, seconds=options.seconds / 4)
                floors.append(floor)
                timings = time_together(_functions(module, packed, keys, B * T), seconds=options.seconds)
                least = floor.milliseconds(B * T * table.width * FLOAT_BYTES)
                fp32 = module.tables.weight.numel() * FLOAT_BYTES
                size = {_named(f): packed_tables.rows.nbytes / fp32 for f, packed_tables in packed.items()}
                rows += compare(
                    case, timings, BASELINE,
                    floor_ms=dict.fromkeys(timings, least),
                    more={name: {"of FP32 memory": share} for name, share in size.items()},
                )  # fmt: skip
        del module, packed  # before the next table is made
    distinct = list({floor.name: floor for floor in floors}.values())
    settings = {
        "keys": f"Zipf, {KEYS:,} items, fresh in every call",
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 1),
    }
    return Result(benchmark="id_embedder", baseline=BASELINE, settings=settings, floors=distinct, rows=rows)


def zipf_keys(rng: np.random.Generator, count: int) -> np.ndarray:
    """Keys int64 ``[count]`` of ``KEYS`` items whose frequency falls with their rank as 1/rank."""
    rank = np.exp(rng.random(count) * np.log(KEYS)).astype(np.int64)
    return rank * 7919  # ranks are no keys: neighbours in rank are not neighbours in number


def _functions(
    module: HashedIdEmbedding, packed: Mapping[RowFormat, IdTables], keys: np.ndarray, n: int
) -> dict[str, Callable[[], object]]:
    """The functions to time. Each goes through the same keys, ``n`` at a call, from a start of its own."""
    batches = keys[: len(keys) // n * n].reshape(-1, n)
    weight = module.tables.weight.detach()
    rows_of = packed[RowFormat.FP16].rows_of
    rows = torch.from_numpy(np.stack([rows_of(batch) for batch in batches]))
    as_tensors = torch.from_numpy(batches)
    halves = torch.from_numpy(packed[RowFormat.FP16].rows)
    inputs: dict[str, tuple[Callable[..., object], np.ndarray | Tensor]] = {
        BASELINE: (lambda row: weight.index_select(0, row), rows),
        "index_select, FP16": (lambda row: halves.index_select(0, row), rows),
        **{_named(row_format): (tables.embed, batches) for row_format, tables in packed.items()},
        "· hash": (rows_of, batches),
        "trained module": (lambda key: module(key).half(), as_tensors),
        "FP16 tables, distinct keys first": (partial(_distinct_first, packed[RowFormat.FP16]), batches),
    }
    return {
        name: _going_through(function, values, start=number * len(batches) // len(inputs))
        for number, (name, (function, values)) in enumerate(inputs.items())
    }


def _going_through(function: Callable[..., object], values: np.ndarray | Tensor, *, start: int) -> Callable[[], object]:
    position = itertools.count(start)
    return lambda: function(values[next(position) % len(values)])


def _distinct_first(tables: IdTables, key: np.ndarray) -> np.ndarray:
    distinct, position = np.unique(key, return_inverse=True)
    return tables.embed(distinct)[position]


def _named(row_format: RowFormat) -> str:
    return f"{row_format.upper()} tables"
