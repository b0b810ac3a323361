"""compose.yaml and its GPU override as `docker compose` reads them. No engine is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from pinrec_cli.main import app
from pinrec_core.contract import ENSEMBLE
from pinrec_serving.installation import MIN_SHARED_MEMORY

ROOT = Path(__file__).resolve().parents[2]


def services(*files: str, **environment: str) -> dict[str, dict[str, Any]]:
    """The services of the merged files; variables of the caller's own environment play no part."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("no `docker compose` on this machine")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PINREC_", "TORCH_", "TRITON_"))}
    command = ["docker", "compose", *(part for file in files for part in ("-f", file)), "config", "--format", "json"]
    answer = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)["services"]


@pytest.fixture(scope="module")
def cpu() -> dict[str, dict[str, Any]]:
    return services("compose.yaml")


@pytest.fixture(scope="module")
def gpu() -> dict[str, dict[str, Any]]:
    return services("compose.yaml", "compose.gpu.yaml")


def options_of(service: dict[str, Any]) -> dict[str, Any]:
    """What the command of a service means to ``pinrec``, read by its own parser."""
    name, *arguments = service["command"]
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    return command.make_context(name, arguments).params


def test_serves_what_the_demo_builds(cpu: dict[str, dict[str, Any]]) -> None:
    built = options_of(cpu["demo-release"])
    served = options_of(cpu["tritonserver"])
    assert built["build_only"]
    assert Path(served["releases"]) == Path(built["out"]) / "releases"
    assert Path(served["signals"]) == Path(built["out"]) / "dataset" / "signals"
    assert cpu["tritonserver"]["depends_on"]["demo-release"]["condition"] == "service_completed_successfully"
    for service in cpu.values():
        assert [volume["target"] for volume in service["volumes"]] == [str(built["out"])]


def test_reached_from_this_machine_only_unless_told_otherwise(cpu: dict[str, dict[str, Any]]) -> None:
    def published(service: dict[str, Any]) -> set[tuple[str, int, int]]:
        return {(port["host_ip"], int(port["published"]), int(port["target"])) for port in service["ports"]}

    served = options_of(cpu["tritonserver"])
    ports = [served["http_port"], served["grpc_port"], served["metrics_port"]]
    assert served["host"] == "0.0.0.0"
    assert published(cpu["tritonserver"]) == {("127.0.0.1", port, port) for port in ports}

    changed = services("compose.yaml", PINREC_BIND="0.0.0.0", PINREC_GRPC_PORT="9001")["tritonserver"]
    assert ("0.0.0.0", 9001, served["grpc_port"]) in published(changed)


def test_time_and_memory_suffice(cpu: dict[str, dict[str, Any]]) -> None:
    service = cpu["tritonserver"]
    assert int(service["stop_grace_period"].rstrip("s")) > options_of(service)["drain_timeout"]
    assert int(service["shm_size"]) >= 2 * MIN_SHARED_MEMORY
    assert service["init"], "without init, a signal that comes before its handler is lost"


def test_health_is_that_of_the_ensemble(cpu: dict[str, dict[str, Any]]) -> None:
    assert f"/v2/models/{ENSEMBLE.name}/ready" in cpu["tritonserver"]["healthcheck"]["test"][-1]


def test_one_service_builds_the_image_of_both(cpu: dict[str, dict[str, Any]], gpu: dict[str, dict[str, Any]]) -> None:
    for merged in (cpu, gpu):
        assert [name for name, service in merged.items() if "build" in service] == ["demo-release"]
        assert len({service["image"] for service in merged.values()}) == 1
    assert (ROOT / cpu["demo-release"]["build"]["dockerfile"]).is_file()
    assert (ROOT / gpu["demo-release"]["build"]["dockerfile"]).is_file()


def test_the_gpu_override_adds_the_device_and_changes_nothing_else(
    cpu: dict[str, dict[str, Any]], gpu: dict[str, dict[str, Any]]
) -> None:
    ours = {"command", "deploy", "image"}
    assert gpu["tritonserver"]["command"] == [*cpu["tritonserver"]["command"], "--triton=image", "--device=cuda"]
    assert options_of(gpu["tritonserver"])["device"] == "cuda"
    (device,) = gpu["tritonserver"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    for key in (cpu["tritonserver"].keys() | gpu["tritonserver"].keys()) - ours:
        assert gpu["tritonserver"].get(key) == cpu["tritonserver"].get(key), key
