"""Finds the real Triton Inference Server on this machine and checks that its Python backend can run here.

Triton is found in one of two places: in its own image under ``/opt/tritonserver``, or in the ``nvidia-pytriton`` wheel,
which wraps it in an API that this project does not use. Whatever would make the Python backend fail late or silently is
checked before Triton starts, and a failed check raises one sentence. This module knows nothing of models or releases.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

import pinrec_core
from pinrec_core.errors import ServerError

IMAGE_ROOT = Path("/opt/tritonserver")
SHARED_MEMORY = Path("/dev/shm")
MIN_SHARED_MEMORY = 256 << 20  # a swap has ten stage processes, which start with 16 MiB each and grow
PRIVATE_PORTS = (20_000, 32_768)
BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")
STUB = "triton_python_backend_stub"
LIBRARY_PATH = "LD_LIBRARY_PATH"
SEARCH_PATH = "PATH"


class TritonSource(StrEnum):
    """Which installation to run."""

    AUTO = "auto"  # the image where its binary exists, else the wheel
    IMAGE = "image"
    WHEEL = "wheel"


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonInstallation:
    """A server that can be run: its binary, the folder of its backends, and the environment that both need."""

    binary: Path
    backends: Path
    environment: dict[str, str]


def find_installation(build_folder: Path, source: TritonSource = TritonSource.AUTO) -> TritonInstallation:
    """Locate Triton, assemble the wheel's Python backend under ``build_folder`` and check that it can start.

    Raises ``ServerError``, whose message says what to install or change.
    """
    if source is TritonSource.IMAGE or (source is TritonSource.AUTO and _image_binary().is_file()):
        return _from_image()
    return _from_wheel(Path(build_folder))


def check_ports(ports: Sequence[tuple[str, str, int]]) -> None:
    """Check that nobody listens on ``ports``, which lists (purpose, host, port). Raises ``ServerError``."""
    numbers = [port for _, _, port in ports]
    if len(set(numbers)) < len(numbers):
        said = ", ".join(f"--{purpose}-port={port}" for purpose, _, port in ports)
        raise ServerError(f"{said}: expected a port of its own for each")
    for purpose, host, port in ports:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ServerError(
                    f"--{purpose}-port={port}: cannot listen on {host} ({error.strerror}); choose another port, "
                    f"or stop the program that holds it"
                ) from error


def free_ports(n: int) -> list[int]:
    """Ports of this machine on which nobody listens. All are held until each is known, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def private_ports(n: int) -> list[int]:
    """The same, of a range from which nobody else is given ports: systems take those of connections above it, and
    services are given lower ones."""
    held: list[socket.socket] = []
    while len(held) < n:
        with contextlib.suppress(OSError):  # somebody listens there
            held.append(socket.create_server(("127.0.0.1", random.randrange(*PRIVATE_PORTS))))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def check_shared_memory() -> None:
    """Check that there is enough of it for the stages. Raises ``ServerError``."""
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    if free < MIN_SHARED_MEMORY:
        raise ServerError(
            f"{SHARED_MEMORY} has {free >> 20} MiB free: Triton's stages pass tensors through it and need "
            f"{MIN_SHARED_MEMORY >> 20} MiB (in a container: --shm-size=1g)"
        )


def _image_binary() -> Path:
    return IMAGE_ROOT / "bin" / "tritonserver"


def _from_image() -> TritonInstallation:
    binary = _image_binary()
    stub = IMAGE_ROOT / "backends" / "python" / STUB
    for path in (binary, stub):
        if not path.is_file():
            raise ServerError(f"{path}: not found; run inside Triton's own image, or with --triton wheel")
    environment = _stub_environment([IMAGE_ROOT / "lib", _libpython_folder()])
    check_stub(stub, environment)
    return TritonInstallation(binary=binary, backends=IMAGE_ROOT / "backends", environment=environment)


def _from_wheel(build_folder: Path) -> TritonInstallation:
    spec = importlib.util.find_spec("pytriton")  # not imported, because its import has side effects
    if spec is None or spec.origin is None:
        raise ServerError("Triton is not installed: pip install 'pinrec-on-triton[serve]'")
    package = Path(spec.origin).parent
    root, libraries = package / "tritonserver", package.parent / "nvidia_pytriton.libs"
    if int(np.__version__.split(".")[0]) >= 2:
        raise ServerError(
            f"numpy {np.__version__} is installed: with numpy 2 every tensor of this Triton arrives empty; "
            f"pip install 'numpy<2'"
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / STUB
    if not stub.is_file():
        raise ServerError(f"nvidia-pytriton has no Python-backend stub for Python {version}: use Python 3.11 or 3.12")
    backends = build_folder / "backends"
    _link([root / "backends" / "python" / name for name in BACKEND_FILES] + [stub], backends / "python")
    environment = _stub_environment([libraries, _libpython_folder()])
    check_stub(backends / "python" / STUB, environment)
    return TritonInstallation(binary=root / "bin" / "tritonserver", backends=backends, environment=environment)


def _link(files: Sequence[Path], folder: Path) -> None:
    """Fill ``folder`` with symlinks. Copies would not do: the files find their libraries relative to where they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        link = folder / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)


def _libpython_folder() -> Path:
    return Path(sysconfig.get_config_var("LIBDIR") or sys.base_prefix + "/lib")


def _stub_environment(libraries: Sequence[Path]) -> dict[str, str]:
    """The environment of the server. Its stubs inherit it, so it names this interpreter's library and packages.

    A stub is a program that embeds Python and runs one stage. The wheel's stub ignores ``PYTHONHOME`` and
    ``PYTHONPATH`` and takes the packages of the first ``python3`` on ``PATH``, so this environment's comes first there,
    activated or not. Other stubs read ``PYTHONPATH``.
    """
    environment = dict(os.environ)
    packages = [Path(pinrec_core.__file__).parents[1]]
    packages += [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    environment["PYTHONPATH"] = _joined([*packages, *_split(environment.get("PYTHONPATH"))])
    environment[SEARCH_PATH] = _joined([Path(sys.executable).parent, *_split(environment.get(SEARCH_PATH, os.defpath))])
    # OpenMP's threads sleep while they wait. If they spun, they would take the cores from the threads and stages that
    # they wait for: on two busy cores, a generator with two spinning threads took 4 to 40 times as long.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # NumPy's BLAS has threads of its own, which spin for about 30 ms after each product and cannot be told not to:
    # under steady load the retrieval stage kept a whole core busy with nothing.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    environment[LIBRARY_PATH] = _joined([*libraries, *_split(environment.get(LIBRARY_PATH))])
    return environment


def _split(paths: str | None) -> list[Path]:
    return [Path(p) for p in (paths or "").split(os.pathsep) if p]


def _joined(paths: Sequence[Path]) -> str:
    return os.pathsep.join(dict.fromkeys(str(p) for p in paths))


def check_stub(stub: Path, environment: dict[str, str]) -> None:
    """Check that the loader finds every library of the stub; Triton would wait minutes for a stub that cannot start.

    Raises ``ServerError``, which names the missing libraries.
    """
    answer = subprocess.run(["ldd", str(stub)], env=environment, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise ServerError(f"{stub}: cannot be loaded ({answer.stderr.strip()})")
    missing = [line.split()[0] for line in answer.stdout.splitlines() if "not found" in line]
    if missing:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ServerError(
            f"Triton's Python backend lacks {', '.join(missing)}: install it (Debian: apt-get install "
            f"libpython{version}; pyenv: rebuild Python {version} with --enable-shared)"
        )
