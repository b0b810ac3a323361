"""Linear layers of the decoder, and what multiplies in INT8 in their place.

Weights of an ``Int8Linear`` have one scale per output channel, fixed when it is made; its inputs one scale per token,
found as they come. Both are symmetric, so nothing has to be calibrated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INT8_MAX = 127
ZERO_POINT = 128  # the inputs are sent as unsigned bytes: processors multiply those with signed weights (VNNI)


class Linear(nn.Linear):
    """``nn.Linear`` of which a part of the output channels can be computed alone."""

    @property
    def input_dtype(self) -> torch.dtype:
        """The format in which it takes its inputs."""
        return self.weight.dtype

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """``[..., in]`` → output channels ``start`` to ``stop``, ``[..., stop − start]``."""
        return F.linear(x, self.weight[start:stop], self.bias[start:stop])


class Int8Linear(nn.Module):
    """A layer whose product is in INT8. It is for a program that is compiled with frozen weights: those are then laid
    out once, which without a compiler happens in every call.

    ``output_dtype`` is the format of its outputs: BF16, or FP32 where the processor has no BF16.
    """

    input_dtype = torch.float32
    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Linear, output_dtype: torch.dtype) -> None:
        super().__init__()
        weight, bias = layer.weight.detach().float(), layer.bias.detach().float()
        scale = _scale_of(weight).squeeze(-1)
        self.output_dtype = output_dtype
        self.register_buffer("weight", (weight / scale.unsqueeze(-1)).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in]`` → ``[N, out]``."""
        return self.part(x, 0, len(self.bias))

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """``[N, in]`` → output channels ``start`` to ``stop``, ``[N, stop − start]``."""
        scale = _scale_of(x.float())
        rounded = ((x.float() / scale).round() + ZERO_POINT).to(torch.uint8)
        channels = slice(start, stop)
        weight = torch.ops.onednn.qlinear_prepack(self.weight[channels], None)
        zeros = torch.zeros(stop - start, dtype=torch.int32)
        product = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, ZERO_POINT, weight, self.scale[channels], zeros, None, 1.0, 0, self.output_dtype,
            "none", [], "",
        )  # fmt: skip
        return (product * scale + self.bias[channels]).to(self.output_dtype)


def _scale_of(x: Tensor) -> Tensor:
    """What 1 stands for in each row's INT8 format, ``[..., in]`` → ``[..., 1]``."""
    return x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / INT8_MAX


@torch.library.register_fake("onednn::qlinear_prepack")
def _shape_of_packed(weight: Tensor, shape: list[int] | None = None) -> Tensor:
    """torch exports no program with this operator unless it is told its result's shape, the transposed weight's."""
    return weight.new_empty(weight.shape[::-1])
