"""Prometheus, its alerts and Grafana's dashboard: the real tools check the files, and every name in them exists."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess

import pytest
import yaml

from pinrec_core.stages.metrics import STAGE_METRICS, Kind
from pinrec_serving.service_metrics import SERVICE_METRICS
from tests import metrics_table
from tests.conftest import ROOT
from tests.test_docs import anchors

OBSERVE = ROOT / "docker" / "observe"
RULES = yaml.safe_load((OBSERVE / "rules.yml").read_text("utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
DASHBOARD = OBSERVE / "grafana" / "dashboards" / "pinrec.json"


def expressions() -> list[str]:
    """Every query of the alerts and of the dashboard."""
    drawn = json.loads(DASHBOARD.read_text("utf-8"))
    queries = [target["expr"] for panel in drawn["panels"] for target in panel.get("targets", [])]
    queries += [annotation["expr"] for annotation in drawn["annotations"]["list"]]
    return [*queries, *(rule["expr"] for rule in ALERTS.values())]


def run(tool: str, *arguments: object) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool}: apt-get install prometheus prometheus-alertmanager")
    done = subprocess.run([tool, *map(str, arguments)], cwd=OBSERVE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules rules.yml", "test rules rules_test.yml"]
)
def test_prometheus_takes_its_files_and_every_alert_fires_when_it_should(command):
    run("promtool", *command.split())


def test_alertmanager_takes_its_file():
    run("amtool", "check-config", "alertmanager.yml")


def test_prometheus_reads_metrics_over_tls_as_the_document_says(tmp_path):
    document = (ROOT / "docs" / "operate" / "observe.md").read_text("utf-8")
    (said,) = re.findall(r"<!-- prometheus with TLS -->\n\n```yaml\n(.*?)```", document, re.DOTALL)
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).touch()
    shutil.copy(OBSERVE / "rules.yml", tmp_path)
    configuration = yaml.safe_load((OBSERVE / "prometheus.yml").read_text("utf-8"))
    (job,) = [job for job in configuration["scrape_configs"] if job["job_name"] == "pinrec"]
    job |= yaml.safe_load(said.replace("/run/pinrec", str(tmp_path)))
    (rule,) = job["relabel_configs"]
    assert (rule["target_label"], rule["replacement"]) == ("__scheme__", "https")
    assert rule["regex"] in job["dns_sd_configs"][0]["names"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration), "utf-8")
    run("promtool", "check", "config", tmp_path / "prometheus.yml")


def test_a_rule_that_never_fires_is_found(tmp_path):
    """The test above can fail: an alert whose threshold is out of reach."""
    for name in ("rules.yml", "rules_test.yml"):
        shutil.copy(OBSERVE / name, tmp_path)
    rules = (tmp_path / "rules.yml").read_text("utf-8")
    (tmp_path / "rules.yml").write_text(rules.replace("pinrec_ready == 0", "pinrec_ready == -1"), "utf-8")
    with pytest.raises(AssertionError, match="PinRecNotReady"):
        run("promtool", "test", "rules", tmp_path / "rules_test.yml")


def test_every_alert_is_tested_and_has_a_runbook():
    tested = re.findall(r'ALERTS\{alertname="(\w+)"\}', (OBSERVE / "rules_test.yml").read_text("utf-8"))
    assert sorted(tested) == sorted(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        document, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor == name.lower()
        assert anchor in anchors((ROOT / document).read_text("utf-8")), name


def test_every_metric_that_is_asked_for_exists():
    known = set()
    for metric in (*STAGE_METRICS, *SERVICE_METRICS):
        ends = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        known |= {metric.name + end for end in ends}
    asked = {name for expression in expressions() for name in re.findall(r"\bpinrec_\w+", expression)}
    assert asked - known == set()
    assert len(asked) > 20


def test_the_dashboard_is_what_its_program_writes():
    program = runpy.run_path(str(OBSERVE / "dashboard.py"))
    assert program["FILE"] == DASHBOARD
    assert DASHBOARD.read_text("utf-8") == program["text"](), "run: python docker/observe/dashboard.py"


def test_grafana_finds_the_dashboard_and_its_source():
    provisioning = OBSERVE / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"][0]
    drawn = json.loads(DASHBOARD.read_text("utf-8"))
    assert {panel["datasource"]["uid"] for panel in drawn["panels"] if "datasource" in panel} == {source["uid"]}
    assert yaml.safe_load((provisioning / "dashboards" / "pinrec.yml").read_text("utf-8"))["providers"]
    ids = [panel["id"] for panel in drawn["panels"]]
    assert len(ids) == len(set(ids))


def test_the_documents_table_of_metrics_is_that_of_the_code():
    text = metrics_table.DOCUMENT.read_text("utf-8")
    assert text == metrics_table.with_table(text), "run: python -m tests.metrics_table"
