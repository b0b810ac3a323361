"""Cost against the length of the history: the generator at 128 to 1,024 items, against Hugging Face's GPT-2.

One model of the size ``small``, with random weights and room for the longest history, generates from histories of each
length; so does its compiled program, where this machine has a C++ compiler.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from benchmarks.bench_program import STEPS, Compiled, Plain, Size, against_gpt2
from benchmarks.floors import matmul_floor
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row
from pinrec_core.config.sections import Variant
from pinrec_core.generation.program import Products, default_products
from pinrec_core.release.compiling import has_compiler

LENGTHS = (128, 256, 512, 1024)
QUICK_LENGTHS = (16, 32)
BATCHES = (1, 8)


def run(options: Options, progress: Progress) -> Result:
    """``--quick`` compiles nothing, because that takes a minute."""
    floor = matmul_floor(torch.bfloat16 if default_products() is Products.BF16 else torch.float32)
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    size = Size(name="small", variant=Variant.OC, S=STEPS, max_history=max(lengths))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="pinrec-scale-") as folder:
        compiles = has_compiler() and not options.quick
        if compiles:
            progress(f"compiling {size.name}")
        made = Compiled(size, Path(folder)) if compiles else Plain(size)
        for B in BATCHES:
            for T in lengths:
                progress(f"B={B} T={T}")
                rows += against_gpt2(made, B, T, floor, options)
    settings = {
        "threads": torch.get_num_threads(), "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),
        "compiled": compiles, "products": default_products().value, "S": STEPS,
        "max_history": size.config.max_history,
    }  # fmt: skip
    return Result(
        benchmark="scale_history", baseline="the first row of a case", settings=settings, floors=[floor], rows=rows
    )
