"""The Helm chart: its values, and with Helm on the PATH what it renders. No cluster is needed."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

from pinrec_cli.main import app
from pinrec_core.contract import PIPELINE
from tests.conftest import ROOT

CHART = ROOT / "deploy" / "helm" / "pinrec"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
GPU = yaml.safe_load((CHART / "values-gpu.yaml").read_text("utf-8"))
TEMPLATES = "\n".join(file.read_text("utf-8") for file in sorted((CHART / "templates").iterdir()))
EDGE = ROOT / "docker" / "scale-out" / "haproxy.cfg"
RELEASE, NAMESPACE = "shop", "recommending"

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": {
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": {"args": ["--threads=4"], "env": {"A": "1"}, "nodeSelector": {"disk": "fast"}},
        "autoscaling": {"enabled": True},
        "signals": {"storageClass": "fast"},
        "ids": {"count": 2},
        "index": {"count": 1},
        "edge": {"apiKeysSecret": "keys", "tlsSecret": "certificate", "serviceType": "LoadBalancer"},
        "monitoring": {"serviceMonitor": True, "labels": {"prometheus": "main"}},
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    },
    "GPU": GPU,
    "no policy": {"networkPolicy": {"enabled": False}},
}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """As Helm merges them: mappings by key, everything else as a whole."""
    result = copy.deepcopy(values)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in ("resources",):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


# --- Values


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_schema_takes_the_values(changes) -> None:
    jsonschema.validate(merged(VALUES, changes), SCHEMA)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"replica": {"count": 3}}, []),
        ({"replicas": {"count": 33}}, ["replicas", "count"]),
        ({"replicas": {"count": 0}}, ["replicas", "count"]),
        ({"replicas": {"args": ["serve"]}}, ["replicas", "args", 0]),
        ({"replicas": {"sharedMemory": "a lot"}}, ["replicas", "sharedMemory"]),
        ({"autoscaling": {"enabled": "yes"}}, ["autoscaling", "enabled"]),
        ({"data": {"claim": ""}}, ["data", "claim"]),
        ({"data": {"releases": "/elsewhere"}}, ["data", "releases"]),
        ({"edge": {"serviceType": "Ingress"}}, ["edge", "serviceType"]),
    ],
)
def test_the_schema_refuses_what_cannot_work(changes, where) -> None:
    with pytest.raises(jsonschema.ValidationError) as refused:
        jsonschema.validate(merged(VALUES, changes), SCHEMA)
    assert list(refused.value.absolute_path) == where


def test_every_value_is_used_and_every_used_value_exists() -> None:
    used = set(re.findall(r"\.Values\.([\w.]+)", TEMPLATES))
    # stages.yaml goes over these two and reads the same of both.
    used |= {f"{part}.{name}" for part in ("ids", "index") for name in re.findall(r"\$values\.(\w+)", TEMPLATES)}
    assert used - {"ids", "index"} == set(leaves(VALUES))


def test_the_edge_looks_after_as_many_replicas_as_there_may_be() -> None:
    (slots,) = {int(n) for n in re.findall(r"server-template replica (\d+)", EDGE.read_text("utf-8"))}
    for group, name in (("replicas", "count"), ("autoscaling", "min"), ("autoscaling", "max")):
        assert SCHEMA["properties"][group]["properties"][name]["maximum"] == slots


def test_a_stage_is_ready_when_it_is_healthy_in_compose() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    assert f"      - {compose['x-stage']['healthcheck']['test'][-1]}\n" in TEMPLATES


def test_the_autoscalers_metric_can_be_asked_for(tmp_path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: apt-get install prometheus")
    adapter = yaml.safe_load((CHART.parent / "prometheus-adapter.yaml").read_text("utf-8"))
    (rule,) = adapter["rules"]["custom"]
    assert f"metric: {{ name: {rule['name']['as']} }}" in TEMPLATES
    query = (
        rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="n",pod=~"a|b"')
    )
    series = [
        {
            "series": f'nv_inference_queue_duration_us{{namespace="n", pod="a", model="{stage.name}"}}',
            "values": "0+60000x5",
        }
        for stage in PIPELINE
    ]
    series.append({
        "series": 'nv_inference_request_success{namespace="n", pod="a", model="pinrec"}', "values": "0+6x5"
    })  # fmt: skip
    samples = [{"labels": '{pod="a"}', "value": 60.0 * len(PIPELINE) / 6}]  # milliseconds of a request
    checked = [{"expr": query, "eval_time": "5m", "exp_samples": samples}]
    file = tmp_path / "test.yaml"
    file.write_text(
        yaml.safe_dump({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checked}]}), "utf-8"
    )
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- What Helm makes of them


def helm(*arguments: object) -> str:
    if shutil.which("helm") is None:
        pytest.skip("no helm on the PATH")
    done = subprocess.run(["helm", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=VARIANTS)
def variant(request, tmp_path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All values, and the objects that come of them."""
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(VARIANTS[request.param]), "utf-8")
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "-f", file)
    text = helm("template", RELEASE, CHART, "-n", NAMESPACE, "-f", file)
    return merged(VALUES, VARIANTS[request.param]), [o for o in yaml.safe_load_all(text) if o]


def named(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The template of the pods of each workload."""
    workloads = named(objects, "Deployment") | named(objects, "StatefulSet")
    return {name: workload["spec"]["template"] for name, workload in workloads.items()}


def chosen(objects: list[dict[str, Any]], selector: dict[str, str]) -> set[str]:
    """The workloads whose pods a selector chooses."""
    return {name for name, pod in pods(objects).items() if selector.items() <= pod["metadata"]["labels"].items()}


def test_kubernetes_takes_every_object(variant) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate: pip install it")
    _, objects = variant
    oldest = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["kubeVersion"].removeprefix(">=")
    for version in (".".join(oldest.split(".")[:2]), validator.latest_version()):
        for one in objects:
            if one["kind"] != "ServiceMonitor":  # defined by the Prometheus operator
                validator.validate(one, version, strict=True)


def test_no_pod_can_do_more_than_it_has_to(variant) -> None:
    for name, pod in pods(variant[1]).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"], name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
            assert {"readinessProbe", "livenessProbe"} <= container.keys(), name
            assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]} | (
                {"realtime"} if name.endswith("signals") else set()
            ), name


def test_the_servers_run_with_options_that_pinrec_takes_and_find_each_other(variant) -> None:
    values, objects = variant
    command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {}
    for name, pod in pods(objects).items():
        (container,) = pod["spec"]["containers"]
        if container["name"] == "pinrec":
            assert container["args"][0] == "serve"
            options[name] = command.make_context("serve", list(container["args"][1:])).params
            assert options[name]["drain_timeout"] < pod["spec"]["terminationGracePeriodSeconds"], name
    replica = options.pop(f"{RELEASE}-replica")
    alone = {f"{name}.{NAMESPACE}.svc.{values['clusterDomain']}:8001": o["only"] for name, o in options.items()}
    asked = dict(remote.split("=") for remote in replica["remote"])
    assert {server.split(",")[0]: stage for stage, server in asked.items()} == alone
    services = named(objects, "Service")
    for name in (*options, f"{RELEASE}-replica"):
        assert chosen(objects, services[name]["spec"]["selector"]) == {name}
    assert replica["device"] == ("cuda" if values["image"]["tag"] == "gpu" else "cpu")


def test_the_edge_has_the_configuration_of_compose_and_haproxy_takes_it(variant, tmp_path) -> None:
    values, objects = variant
    (configuration,) = named(objects, "ConfigMap").values()
    assert configuration["data"]["haproxy.cfg"].strip() == EDGE.read_text("utf-8").strip()
    files = {file.name: file for file in (CHART / "files").iterdir()}
    assert {name: text.strip() for name, text in configuration["data"].items()} == {
        name: file.read_text("utf-8").strip() for name, file in files.items()
    }
    pod = pods(objects)[f"{RELEASE}-edge"]
    (container,) = pod["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    hosts = {environment[f"PINREC_EDGE_{part}"].split(".")[0] for part in ("REPLICA", "SIGNALS")}
    assert hosts <= named(objects, "Service").keys()
    assert ("PINREC_EDGE_TLS" in environment) == bool(values["edge"]["tlsSecret"])
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no HAProxy: apt-get install haproxy")
    if "PINREC_EDGE_TLS" in environment:
        folder = tmp_path / "tls"
        folder.mkdir()
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=edge",
             "-keyout", folder / "tls.pem.key", "-out", folder / "tls.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        environment["PINREC_EDGE_TLS"] = environment["PINREC_EDGE_TLS"].replace("/etc/pinrec-tls", str(folder))
        (tmp_path / "keys").write_text(f"{'0' * 64} a product\n", "utf-8")
        environment["PINREC_EDGE_API_KEYS"] = str(tmp_path / "keys")
    in_the_pod = re.compile(r"/etc/pinrec-edge/(.+)")
    command = [in_the_pod.sub(lambda found: str(files[found[1]]), word) for word in container["command"]]
    done = subprocess.run([program, "-c", *command[1:]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_budgets_policies_and_the_autoscaler_are_of_pods_that_exist(variant) -> None:
    values, objects = variant
    for name, budget in named(objects, "PodDisruptionBudget").items():
        assert chosen(objects, budget["spec"]["selector"]["matchLabels"]) == {name}
    policies = named(objects, "NetworkPolicy")
    assert bool(policies) == values["networkPolicy"]["enabled"]
    for name in pods(objects).keys() - {f"{RELEASE}-edge"}:
        if policies:
            assert chosen(objects, policies[name]["spec"]["podSelector"]["matchLabels"]) == {name}
            for peer in policies[name]["spec"]["ingress"][0]["from"]:
                assert len(chosen(objects, peer["podSelector"]["matchLabels"])) == 1
    scalers = named(objects, "HorizontalPodAutoscaler")
    assert bool(scalers) == values["autoscaling"]["enabled"]
    deployments = named(objects, "Deployment")
    for scaler in scalers.values():
        assert "replicas" not in deployments[scaler["spec"]["scaleTargetRef"]["name"]]["spec"]
