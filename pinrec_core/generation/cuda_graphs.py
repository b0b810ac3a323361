"""Records programs as CUDA graphs: one launch for all kernels of a generation, and no host between them.

Inductor compiles each program for its shapes, without graph trees of its own. What it makes is then captured by hand.
All graphs share one pool of memory: they never run at the same time, so that the largest, which is captured first,
needs as much as all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pinrec_core.generation.static_buffers import StaticBuffers

INDUCTOR = {
    "triton.cudagraphs": False,
    "compile_threads": 1,  # in this process: the one of a Triton stage is not a Python that could start workers
}
"""How a program is compiled."""
WARM_UP = 3
"""Runs before the capture, in which kernels are compiled and loaded and libraries take their workspaces."""
MAX_PROGRAMS = 64
"""One compiled program for each bucket. Dynamo by itself refuses the ninth."""


class CudaGraphs:
    """The recorder of one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()

    @property
    def device(self) -> torch.device:
        return self._device

    def record(
        self, program: Callable[..., tuple[Tensor, ...]], inputs: StaticBuffers, outputs: StaticBuffers
    ) -> Callable[[], None]:
        """See ``captured.Recorder``. Raises what the compiler and the driver raise."""
        run = fixed_program(program, inputs, outputs, options=INDUCTOR)
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())  # in which the buffers were filled
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP):
                    run()
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                run()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                inputs.to_device()
                graph.replay()
                outputs.to_host()
            self._stream.synchronize()  # the answer is read next: the one time that the host waits

        return replay

    def memory(self) -> int:
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


def fixed_program(
    program: Callable[..., tuple[Tensor, ...]], inputs: StaticBuffers, outputs: StaticBuffers, **how: object
) -> Callable[[], None]:
    """``program`` compiled whole for the shapes of ``inputs``, from and to the buffers of the device.

    ``how`` goes to ``torch.compile``. The first call compiles; a graph break is an error.
    """
    compiled = torch.compile(program, fullgraph=True, dynamic=False, **how)  # type: ignore[call-overload]

    @torch.no_grad()
    def run() -> None:
        with torch._dynamo.config.patch(recompile_limit=MAX_PROGRAMS):
            made = compiled(*inputs.on_device)
        for into, values in zip(outputs.on_device, made, strict=True):
            into.copy_(values)

    return run
