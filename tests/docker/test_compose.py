"""compose.yaml and its GPU override as `docker compose` reads them. No engine is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from benchmarks.compose_project import compose
from pinrec_cli.main import app
from pinrec_core.contract import ENSEMBLE, PIPELINE, SIGNAL_INGEST
from pinrec_serving.installation import MIN_SHARED_MEMORY
from tests.conftest import ROOT
from tests.docker.project import need_compose

Services = dict[str, dict[str, Any]]
EDGE = (ROOT / "docker" / "scale-out" / "haproxy.cfg").read_text("utf-8")
GUARD = (ROOT / "pinrec_serving" / "guard.cfg").read_text("utf-8")  # which the edge reads first


def services(*files: str, profiles: tuple[str, ...] = ("*",), **environment: str) -> Services:
    """The services of the merged files; variables of the caller's own environment play no part."""
    need_compose()
    chosen = [part for file in files for part in ("-f", file)] + [p for name in profiles for p in ("--profile", name)]
    return json.loads(compose(*chosen, "config", "--format", "json", environment=environment))["services"]


@pytest.fixture(scope="module")
def cpu() -> Services:
    return services("compose.yaml")


@pytest.fixture(scope="module")
def gpu() -> Services:
    return services("compose.yaml", "compose.gpu.yaml")


def options_of(service: dict[str, Any]) -> dict[str, Any]:
    """What the command of a service means to ``pinrec``, read by its own parser."""
    name, *arguments = service["command"]
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    return command.make_context(name, arguments).params


def servers(cpu: Services) -> Services:
    return {name: service for name, service in cpu.items() if (service["command"] or [""])[0] == "serve"}


def test_the_profiles_have_what_their_names_say() -> None:
    started = {
        "single": {"tritonserver"},
        "observe": {"tritonserver", "prometheus", "alertmanager", "grafana"},
        "scale-out": {"ids", "index", "signals", "replica", "edge", "prometheus", "alertmanager", "grafana"},
        "canary": {"ids", "index", "signals", "canary"},
    }
    for profile, names in started.items():
        assert set(services("compose.yaml", profiles=(profile,))) == names | {"demo-release"}, profile
    assert set(services("compose.yaml", profiles=("load",))) == {"load"}


def test_serves_what_the_demo_builds(cpu: Services) -> None:
    built = options_of(cpu["demo-release"])
    assert built["build_only"]
    for name, service in servers(cpu).items():
        served = options_of(service)
        assert Path(served["releases"]) == Path(built["out"]) / "releases", name
        assert str(built["out"]) in [volume["target"] for volume in service["volumes"]], name
        first = next(iter(service["depends_on"]))  # the release, or a stage that waits for the release
        waits = service["depends_on"] if first == "demo-release" else cpu[first]["depends_on"]
        assert waits["demo-release"]["condition"] == "service_completed_successfully", name
    for name in ("tritonserver", "signals"):
        assert Path(options_of(cpu[name])["signals"]) == Path(built["out"]) / "dataset" / "signals"


def test_one_service_of_several_writes(cpu: Services) -> None:
    """The real-time store has one writer, and no other service could change a release or a history."""
    for name in servers(cpu).keys() - {"tritonserver", "signals"}:
        (data,) = [volume for volume in cpu[name]["volumes"] if volume["target"] == "/data"]
        assert data.get("read_only"), name
        assert options_of(cpu[name])["signals"] is None


def test_replicas_ask_the_stages_that_are_services(cpu: Services) -> None:
    alone = {name: options_of(service)["only"] for name, service in servers(cpu).items()}
    for name in ("replica", "canary"):
        asked = dict(remote.split("=") for remote in options_of(cpu[name])["remote"])
        for stage, server in asked.items():
            host, port = server.split(",")[0].split(":")
            assert (alone[host], port) == (stage, "8001")
        assert len(asked) == len([stage for stage in alone.values() if stage])
        assert asked.keys() < {stage.name for stage in PIPELINE}
        assert set(cpu[name]["depends_on"]) == {server.split(":")[0] for server in asked.values()}


def test_the_edge_knows_the_services_and_models(cpu: Services) -> None:
    hosts = re.findall(r'server-template \w+ \d+ "\$\{PINREC_EDGE_\w+-(\w+)\}:', EDGE)
    assert set(hosts) == {"replica", "canary", "signals"} <= set(cpu)
    assert int(re.findall(r"server-template replica (\d+)", EDGE)[0]) >= int(cpu["replica"]["deploy"]["replicas"])
    for model in (ENSEMBLE.name, SIGNAL_INGEST.name):
        assert f"/v2/models/{model}/ready" in EDGE
    # A message of Triton's protocol begins with the name of the model.
    assert (b"\x0a" + bytes([len(SIGNAL_INGEST.name)]) + SIGNAL_INGEST.name.encode()).hex().upper() in GUARD
    assert set(cpu["edge"]["environment"]) < set(re.findall(r"\$\{(\w+)", EDGE))


def test_reached_from_this_machine_only_unless_told_otherwise(cpu: Services) -> None:
    def published(service: dict[str, Any]) -> set[tuple[str, int, int]]:
        return {(port["host_ip"], int(port["published"]), int(port["target"])) for port in service.get("ports", ())}

    served = options_of(cpu["tritonserver"])
    ports = [served["http_port"], served["grpc_port"], served["metrics_port"]]
    assert served["host"] == "0.0.0.0"
    for name in ("tritonserver", "edge"):  # one of the two, under the same name
        assert published(cpu[name]) == {("127.0.0.1", port, port) for port in ports}
        assert "pinrec" in cpu[name]["networks"]["default"]["aliases"]
    for name, service in cpu.items():
        assert {host for host, _, _ in published(service)} <= {"127.0.0.1"}, name

    changed = services("compose.yaml", PINREC_BIND="0.0.0.0", PINREC_GRPC_PORT="9001")["tritonserver"]
    assert ("0.0.0.0", 9001, served["grpc_port"]) in published(changed)


def test_no_service_can_do_more_than_it_has_to(cpu: Services) -> None:
    for name, service in cpu.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"].split(":")[0] not in ("0", "root"), name
        assert int(service["mem_limit"]) > 0, name
        assert service["pids_limit"] > 0, name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["restart"] == ("no" if name == "demo-release" else "unless-stopped"), name
        assert not service.get("privileged"), name


def test_versions_are_pinned(cpu: Services) -> None:
    built = {service["image"] for service in cpu.values() if "build" in service}
    for name, service in cpu.items():
        tag = service["image"].rpartition(":")[2]
        assert service["image"] in built or re.fullmatch(r"\d+\.\d+\.\d+", tag), name


def test_time_and_memory_suffice(cpu: Services) -> None:
    for name, service in servers(cpu).items():
        seconds = service["stop_grace_period"]
        assert int(seconds.rstrip("s")) > options_of(service)["drain_timeout"], name
        assert int(service["shm_size"]) >= 2 * MIN_SHARED_MEMORY, name
        assert service["init"], "without init, a signal that comes before its handler is lost"


def test_health_is_that_of_the_ensemble(cpu: Services) -> None:
    for name in ("tritonserver", "replica", "canary", "edge"):
        assert f"/v2/models/{ENSEMBLE.name}/ready" in cpu[name]["healthcheck"]["test"][-1]
    for name in ("ids", "index", "signals"):
        assert "/v2/models/stats" in cpu[name]["healthcheck"]["test"][-1]


@pytest.mark.parametrize(
    ("loaded", "healthy"), [([], False), (["signal_ingest"], False), (["signal_ingest", "signal_fetch__r1"], True)]
)
def test_a_stage_is_healthy_once_it_is_loaded_itself(loaded: list[str], healthy: bool) -> None:
    class Statistics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/v2/models/stats"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"model_stats": [{"name": name} for name in loaded]}).encode())

        def log_message(self, *_: object) -> None: ...

    composed = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Statistics) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = composed["services"]["signals"]["healthcheck"]["test"][-1].replace(
            ":8000/", f":{server.server_port}/"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True)
        server.shutdown()
    assert (done.returncode == 0) == healthy


def test_one_service_builds_the_image_of_all(cpu: Services, gpu: Services) -> None:
    for merged in (cpu, gpu):
        assert [name for name, s in merged.items() if "build" in s] == ["demo-release", "load", "prometheus"]
        assert len({service["image"] for service in servers(merged).values()}) == 1
        for name in ("demo-release", "load", "prometheus"):
            build = merged[name]["build"]
            assert (Path(build["context"]) / build["dockerfile"]).is_file()
    assert cpu["alertmanager"]["image"] == cpu["prometheus"]["image"]


def test_what_is_mounted_from_the_project_exists(cpu: Services) -> None:
    for name, service in cpu.items():
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), name
                assert volume["read_only"], name


def test_prometheus_looks_up_the_names_of_the_services(cpu: Services) -> None:
    configuration = yaml.safe_load((ROOT / "docker" / "observe" / "prometheus.yml").read_text("utf-8"))
    looked_up = {n for job in configuration["scrape_configs"] for c in job["dns_sd_configs"] for n in c["names"]}
    assert looked_up == {*servers(cpu), "edge"}
    (manager,) = configuration["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert manager.split(":")[0] in cpu


def test_the_gpu_override_adds_the_device_and_changes_nothing_else(cpu: Services, gpu: Services) -> None:
    ours = {"command", "deploy", "image", "environment"}
    for name in ("tritonserver", "replica", "canary"):
        assert gpu[name]["command"] == [*cpu[name]["command"], "--triton=image", "--device=cuda"]
        assert options_of(gpu[name])["device"] == "cuda"
        (device,) = gpu[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        for key in (cpu[name].keys() | gpu[name].keys()) - ours:
            assert gpu[name].get(key) == cpu[name].get(key), (name, key)
        cache = gpu[name]["environment"].pop("TORCHINDUCTOR_CACHE_DIR")
        assert any(cache.startswith(volume["target"]) for volume in gpu[name]["volumes"]), (
            "compiled once, not each time"
        )
        assert gpu[name]["environment"] == cpu[name]["environment"]
