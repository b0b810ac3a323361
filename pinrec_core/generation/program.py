"""All of a generation as one program that can be compiled ahead of time (PinRec, serving).

Prefill, every decode step, the head for all outcomes and offsets, and feedback are one module of tensors alone. Nothing
in it depends on data, so ``torch.export`` takes it whole: on the CPU once for every batch size and length, on an
accelerator once per bucket. AOTInductor compiles the former to a package, which is loaded in seconds and needs no
compiler where it runs.

Products of the decoder's linear layers are in BF16 where the processor has instructions for it. The residual stream,
the norms, the softmax and the head stay in FP32.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor, nn

from pinrec_core.generation.generate import RequestContext, condition_of_step, generated, require_generates
from pinrec_core.model.linear import Int8Linear
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.sequence_model import SequenceModel

INDUCTOR = {
    "freezing": True,  # lays the weights out for the products once, when the program is made
    "cpp.dynamic_threads": True,  # as many as the process has that runs it, not the one that made it
}
"""How the program is compiled."""
SEARCH = {"max_autotune_gemm": True, "max_autotune_gemm_backends": "ATEN,CPP"}
"""Inductor then writes a kernel for each product, and times it against the library's on the example's sizes."""
NARROW = 256
"""The largest hidden width at which that search pays. The library takes some 15 µs for a product of any size, which a
step of a narrow model has no time for; those of wide models it multiplies faster than Inductor's kernels."""

DENSE_ATTENTION = 512
"""The longest history whose attention scores are held at once: 400 MiB for 32 of them and 12 heads."""

REQUEST_TENSORS = len(fields(RequestContext))

Generate = Callable[[PackedHistories, RequestContext], Tensor]
"""Histories and requests of a batch → unit embeddings ``[B, O, S·W, D]``."""

COSINE_TOLERANCE = 1e-3
"""The largest allowed 1 − cosine between an embedding of a compiled program and the plain model's. BF16 rounds each
factor of a product by up to 2^-9; sums over a layer's width average that, and 1e-5 is usual. A fault of the compiler
makes it about 1."""


class GenerationProgram(nn.Module):
    """``generate`` for one number of steps and one set of offsets.

    What no request changes, such as the conditioning of the head, is computed here once. Raises ``ConfigError`` for
    more steps or offsets than the model was made for.
    """

    def __init__(self, model: SequenceModel, *, steps: int, offsets: tuple[int, ...]) -> None:
        super().__init__()
        require_generates(model.config, steps, offsets)
        self.model = model.requires_grad_(False)
        self.steps = steps
        self.offsets = offsets
        self.condition: Tensor
        self.register_buffer("condition", condition_of_step(model, offsets))

    def forward(self, *tensors: Tensor) -> Tensor:
        """The tensors of ``program_inputs`` → float32 ``[B, O, S·W, D]``."""
        history, request = inputs_of(tensors)
        return generated(self.model, history, request, self.offsets, self.condition).float()


def program_inputs(history: PackedHistories, request: RequestContext) -> tuple[Tensor, ...]:
    """The inputs of a program, in order."""
    return (*history.tensors(), *request.tensors())


def inputs_of(tensors: Sequence[Tensor]) -> tuple[PackedHistories, RequestContext]:
    """What ``program_inputs`` were made of."""
    return PackedHistories.of(*tensors[:-REQUEST_TENSORS]), RequestContext.of(*tensors[-REQUEST_TENSORS:])


def largest_difference(made: Tensor, expected: Tensor) -> float:
    """The largest 1 − cosine between unit embeddings ``[..., D]`` and those expected. NaN where there is one."""
    return float((1 - (made.float() * expected.float()).sum(-1)).max())


class Products(StrEnum):
    """The number format of the products of the decoder's linear layers."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


def with_products(model: SequenceModel, products: Products) -> SequenceModel:
    """A copy of a model in FP32 whose decoder multiplies in another format. INT8 is meant to be compiled."""
    copied = copy.deepcopy(model)
    if products is Products.BF16:
        for module in copied.decoder.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
    elif products is Products.INT8:
        output = torch.bfloat16 if Products.BF16 in fast_products() else torch.float32
        for block in copied.decoder.blocks:
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(block, name, Int8Linear(layer, output))
    return copied


def program_for_cpu(
    model: SequenceModel, *, steps: int, offsets: tuple[int, ...], products: Products
) -> GenerationProgram:
    """The program of a model in FP32 as it is compiled for a processor. Raises what ``GenerationProgram`` raises."""
    made = with_products(model, products)
    if products is not Products.FP32 and model.config.max_history <= DENSE_ATTENTION:
        made.decoder.attend_densely()
    return GenerationProgram(made, steps=steps, offsets=offsets)


def fast_products() -> tuple[Products, ...]:
    """The formats for whose products this processor has instructions, so that they are faster than those of FP32."""
    capabilities = torch.cpu.get_capabilities()
    needs = {
        Products.BF16: ("avx512_bf16", "amx_bf16", "bf16"),
        Products.INT8: ("avx512_vnni", "avx_vnni", "amx_int8"),
    }
    return tuple(products for products, any_of in needs.items() if any(capabilities.get(name) for name in any_of))


def default_products() -> Products:
    """BF16 where it is fast, which changes embeddings by about 1e-5 (1 − cosine)."""
    return Products.BF16 if Products.BF16 in fast_products() else Products.FP32


def export_for_any_shape(program: GenerationProgram, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The whole program with dynamic sizes of batch, tokens and longest history.

    ``example`` needs at least two rows, because a size of 1 would be taken for a constant.
    """
    tokens, batch, positions = (torch.export.Dim(name) for name in ("tokens", "batch", "positions"))
    per_token = [{0: tokens}] * 8
    layout = [{0: batch, 1: positions}, {0: tokens}, {0: batch}]
    shapes = (*per_token, *layout, *[{0: batch}] * REQUEST_TENSORS)
    with torch.no_grad():
        return torch.export.export(program.eval(), example, dynamic_shapes=(shapes,), strict=True)


def compile_package(
    program: GenerationProgram, example: tuple[Tensor, ...], path: Path, *, search: bool | None = None
) -> None:
    """Compile for this processor, with frozen weights, and write a package (``.pt2``). Takes a minute on two cores.

    With ``search``, by default for narrow models, it takes some minutes: kernels are tried for each product.
    Raises ``RuntimeError`` or torch's own errors where there is no C++ compiler.
    """
    from torch._inductor import aoti_compile_and_package, select_algorithm

    narrow = program.model.config.hidden_width <= NARROW
    options = INDUCTOR | (SEARCH if (narrow if search is None else search) else {})
    # Inductor prints two tables for every product that is tried, and has a switch for one of them.
    select_algorithm.PRINT_AUTOTUNE = False
    select_algorithm._log_autotune_choices_stats = lambda *_, **__: None
    with torch.no_grad(), warnings.catch_warnings():  # with gradients, Inductor leaves out freezing without a word
        warnings.simplefilter("ignore")  # torch's own, of what it will rename
        exported = export_for_any_shape(program, example)
        aoti_compile_and_package(exported, package_path=str(path), inductor_configs=options)


def load_package(path: Path) -> Generate:
    """The compiled program in a package that ``compile_package`` wrote on such a processor with this torch."""
    # What torch._inductor.aoti_load_package wraps. The wrapper imports torch's compiler, 70 MiB for each process and a
    # second of its start, and reads a description of inputs and outputs from JSON at every call.
    program = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)  # type: ignore[attr-defined]

    @torch.inference_mode()
    def generate(history: PackedHistories, request: RequestContext) -> Tensor:
        (embedding,) = program.boxed_run(list(program_inputs(history, request)))
        return embedding

    return generate
