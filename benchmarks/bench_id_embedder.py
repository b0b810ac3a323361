"""The ID embedder: the TorchScript module of a release against ``nn.Embedding`` with tables of as many bytes.

``nn.Embedding`` is given rows and not keys, so the ratio shows what hashing adds to a plain lookup.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.floors import Floor, copy_floor
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row, compare
from benchmarks.timing import time_together
from pinrec_core.config.presets import PRESETS
from pinrec_core.representations.id_embedding import HashedIdEmbedding

BASELINE = "nn.Embedding"
POSITIONS = (128, 512)
BATCHES = (1, 32)
FLOAT_BYTES = 4


@torch.inference_mode()
def run(options: Options, progress: Progress) -> Result:
    rows: list[Row] = []
    floors: list[Floor] = []
    for preset in options.presets:
        model = PRESETS[preset].model
        width, hashes, table_rows = model["id_width"], model["id_hashes"], model["id_rows"]
        module = HashedIdEmbedding(width=width, hashes=hashes, rows=table_rows).eval()
        scripted = torch.jit.script(module)
        plain = torch.nn.Embedding(table_rows, width).eval()
        for T in POSITIONS[:1] if options.quick else POSITIONS:
            for B in BATCHES:
                case = {"preset": preset, "rows": table_rows, "I": width, "K": hashes, "T": T, "B": B}
                progress(" ".join(f"{k}={v}" for k, v in case.items()))
                key = torch.randint(0, 1 << 40, (B * T,))
                row = key % table_rows
                floor = copy_floor(B * T * width * FLOAT_BYTES, seconds=options.seconds / 4)
                floors.append(floor)
                timings = time_together(
                    {
                        "TorchScript module": partial(scripted, key),
                        "eager module": partial(module, key),
                        BASELINE: partial(plain, row),
                    },
                    seconds=options.seconds,
                )
                least = floor.milliseconds(B * T * width * FLOAT_BYTES)
                rows += compare(case, timings, BASELINE, floor_ms=dict.fromkeys(timings, least))
    distinct = list({floor.name: floor for floor in floors}.values())
    settings = {"dtype": "float32"}
    return Result(benchmark="id_embedder", baseline=BASELINE, settings=settings, floors=distinct, rows=rows)
