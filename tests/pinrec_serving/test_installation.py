"""Whatever is missing on a machine is reported in one sentence before anything is started."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pinrec_core.errors import ServerError
from pinrec_serving import installation
from pinrec_serving.installation import TritonSource, check_ports, check_shared_memory, check_stub, find_installation


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ServerError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refusal(lambda: check_ports([("grpc", "127.0.0.1", port)]))
    assert f"--grpc-port={port}" in message
    check_ports([("grpc", "127.0.0.1", port)])


def test_two_ports_that_are_one_are_named() -> None:
    message = refusal(lambda: check_ports([("grpc", "127.0.0.1", 9001), ("http", "127.0.0.1", 9001)]))
    assert message == "--grpc-port=9001, --http-port=9001: expected a port of its own for each"


def test_little_shared_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "MIN_SHARED_MEMORY", 1 << 60)
    message = refusal(lambda: check_shared_memory())
    assert "/dev/shm has" in message
    assert "--shm-size" in message


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install" in refusal(lambda: find_installation(tmp_path, TritonSource.WHEEL))


def test_a_missing_image_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installation, "IMAGE_ROOT", tmp_path / "opt")
    assert "--triton wheel" in refusal(lambda: find_installation(tmp_path, TritonSource.IMAGE))


@pytest.mark.usefixtures("triton")
class TestWheel:
    @pytest.fixture(autouse=True)
    def wheel(self) -> None:
        if importlib.util.find_spec("pytriton") is None:
            pytest.skip("no wheel: pip install 'pinrec-on-triton[serve]'")

    def test_numpy_2_is_refused(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(np, "__version__", "2.1.0")
        message = refusal(lambda: find_installation(tmp_path, TritonSource.WHEEL))
        assert "numpy 2.1.0" in message
        assert "'numpy<2'" in message

    def test_the_backend_is_put_together_from_links(self, tmp_path: Path) -> None:
        found = find_installation(tmp_path, TritonSource.WHEEL)
        assert found.binary.is_file()
        links = sorted((found.backends / "python").iterdir())
        assert [p.name for p in links] == sorted([*installation.BACKEND_FILES, installation.STUB])
        assert all(p.is_symlink() and p.is_file() for p in links)
        assert found == find_installation(tmp_path, TritonSource.WHEEL), "doing it again changes nothing"

    def test_the_stub_is_told_where_the_packages_are(self, tmp_path: Path) -> None:
        folders = find_installation(tmp_path, TritonSource.WHEEL).environment["PYTHONPATH"].split(":")
        for package in ("pinrec_core", "numpy"):
            assert any((Path(folder) / package / "__init__.py").is_file() for folder in folders), package

    def test_threads_of_the_stages_sleep_unless_the_environment_says_otherwise(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
        environment = find_installation(tmp_path, TritonSource.WHEEL).environment
        assert (environment["OPENBLAS_NUM_THREADS"], environment["OMP_WAIT_POLICY"]) == ("1", "ACTIVE")

    def test_a_library_that_cannot_be_found_is_named(self, tmp_path: Path) -> None:
        """The server's library away from its dependencies fails in the way a stub without libpython does."""
        spec = importlib.util.find_spec("pytriton")
        assert spec is not None
        assert spec.origin is not None
        (library,) = (Path(spec.origin).parents[1] / "nvidia_pytriton.libs").glob("libtritonserver*")
        copy = tmp_path / library.name
        copy.symlink_to(library)
        message = refusal(lambda: check_stub(copy, {"PATH": "/usr/bin:/bin"}))
        assert "lacks lib" in message
        assert "apt-get install libpython3" in message
