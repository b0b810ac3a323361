"""``pinrec serve`` as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton_client

from pinrec_serving.model_control import input_tensor
from pinrec_serving.runtime import Endpoint
from tests.conftest import ROOT

PINREC = [sys.executable, "-c", "from pinrec_cli.main import main; main()"]


class Service:
    """A running ``pinrec serve``. ``wait_for`` reads its progress up to a given sentence."""

    def __init__(
        self, *arguments: object, endpoint: Endpoint, command: Sequence[str] = (), temporary: Path | None = None
    ) -> None:
        ports = {"grpc": endpoint.grpc_port, "http": endpoint.http_port, "metrics": endpoint.metrics_port}
        options = [f"--{name}-port={port}" for name, port in ports.items()]
        self.process = subprocess.Popen(
            [*PINREC, "serve", *map(str, arguments), *options, "--json", *(["--", *command] if command else [])],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | ({"TMPDIR": str(temporary)} if temporary else {}),
        )  # fmt: skip
        self.endpoint = endpoint
        self.progress: list[str] = []

    def ready(self) -> dict[str, str]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def wait_for(self, sentence: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.progress.append(line)
            if sentence in line:
                return
        raise AssertionError(f"{sentence!r} was never said:\n{''.join(self.progress)}")

    def release(
        self, user_id: int = 7, *, surface: str | None = None, request_id: str = "", timeout: float | None = None
    ) -> str:
        """The release that answers. Raises ``InferenceServerException``, which a ``surface`` can ask for."""
        inputs = [input_tensor("user_id", np.array([[user_id]], np.int64))]
        if surface is not None:
            inputs.append(input_tensor("surface", np.array([[surface.encode()]], object)))
        with triton_client.InferenceServerClient(self.endpoint.grpc) as client:
            return (
                client.infer("pinrec", inputs, request_id=request_id, client_timeout=timeout)
                .as_numpy("release")[0, 0]
                .decode()
            )

    def model_is_ready(self, model: str) -> bool:
        with triton_client.InferenceServerClient(self.endpoint.grpc) as client:
            return client.is_model_ready(model)

    def child(self, word: str, *, of: int | None = None) -> int:
        """The child of the service, or of another process, whose command line holds ``word``."""
        (found,) = self.children(word, of=of)
        return found

    def children(self, word: str, *, of: int | None = None) -> list[int]:
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in children(of or self.process.pid)}
        return [pid for pid, line in lines.items() if word in line]

    def end(self) -> tuple[int, str]:
        watchdog = threading.Timer(60.0, self.process.kill)
        watchdog.start()
        _, errors = self.process.communicate()
        watchdog.cancel()
        return self.process.returncode, "".join(self.progress) + errors


def children(pid: int) -> list[int]:
    return [int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]
