"""Rules and dashboard, held against the metrics that exist and the runbook that explains them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from worker.observe.prometheus import PrometheusObserver

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "pilot-router.json"
# Of Prometheus itself and of the process collector.
OTHERS = {"up", "process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}
PART = re.compile(r"_(bucket|sum|count|total)$")


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return shown + [rule["expr"] for name in ("recording.yml", "alerts.yml") for rule in rules(name)]


def metrics(expression: str) -> set[str]:
    """Names of metrics in an expression: what stands before a selector, a range or an operator and is no function."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\b(by|on)\s*\([^)]*\)', " ", expression)
    return {name for name in re.findall(r"[a-zA-Z_][\w:]*(?!\w*\()", bare) if ":" in name or "_" in name} - {
        "histogram_quantile", "clamp_min",
    }  # fmt: skip


def test_every_expression_names_metrics_that_exist() -> None:
    """A metric that is renamed without its rule or panel fails here, and so does a misspelt one."""
    exported = {family.name for family in PrometheusObserver().registry.collect()}
    recorded = {rule["record"] for rule in rules("recording.yml")}
    used = {name for expression in expressions() for name in metrics(expression)}
    assert len(used) > 25
    unknown = {name for name in used - recorded - OTHERS if PART.sub("", name) not in exported}
    assert unknown == set()
    assert metrics("rate(pilot_querys_total[5m])") == {"pilot_querys_total"}


def test_every_recorded_sum_is_used() -> None:
    """A recording rule that neither alert nor panel reads costs for nothing."""
    recorded = {rule["record"] for rule in rules("recording.yml")}
    assert recorded <= {name for expression in expressions() for name in metrics(expression)}


def test_every_alert_has_a_test_and_a_runbook() -> None:
    """Who is woken finds a section of that name, and each alert was seen to fire."""
    alerts = {rule["alert"] for rule in rules("alerts.yml")}
    tested = {
        case["alertname"]
        for test in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text("utf-8"))["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    runbook = set(re.findall(r"^### (Pilot\w+)$", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.MULTILINE))
    assert alerts == tested == runbook


def test_derived_files_are_up_to_date() -> None:
    """Dashboard and PrometheusRule are what the script writes from the rules as they are."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_deploy.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
