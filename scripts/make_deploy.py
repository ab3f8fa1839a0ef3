"""Write what deployments derive from other files: the Grafana dashboard and the PrometheusRule of the alerts.

    python scripts/make_deploy.py            writes them
    python scripts/make_deploy.py --check    exits 1 if a file is not what would be written

A dashboard as JSON is mostly coordinates; here a panel is a line of what it shows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "pilot-router.json"
RULES = DEPLOY / "kubernetes" / "components" / "prometheus-operator" / "prometheusrule.yaml"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24


@dataclass(frozen=True)
class Panel:
    """What one panel shows: queries with their legends. `unit` is Grafana's name of a unit."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    meaning: str = ""


def stat(title: str, query: str, unit: str = "short", meaning: str = "") -> Panel:
    """One number."""
    return Panel(title, ((query, ""),), unit, "stat", 4, meaning=meaning)


SECTIONS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Now",
        (
            stat("Workers scraped", 'sum(up{job=~"pilot.*"})'),
            stat("Decisions a second", "sum(pilot:decisions:rate5m)", "reqps"),
            stat("Decision latency, p99", "pilot:decision_latency_seconds:p99_5m", "s"),
            stat(
                "Rejected",
                'sum(pilot:decisions:rate5m{status="rejected"}) / sum(pilot:decisions:rate5m)',
                "percentunit",
            ),
            stat(
                "Saved, last hour",
                "pilot:savings:ratio_1h",
                "percentunit",
                "Estimated cost of what was chosen against always the best model.",
            ),
            stat(
                "Expected quality against the best model",
                "sum(rate(pilot_expected_reward_total[1h])) / sum(rate(pilot_baseline_reward_total[1h]))",
                "percentunit",
            ),
        ),
    ),
    (
        "Traffic",
        (
            Panel("Queries by outcome", (("pilot:queries:rate5m", "{{outcome}}"),), "reqps", stacked=True),
            Panel(
                "Decision latency",
                tuple(
                    (
                        f"histogram_quantile({q}, sum by (le) (rate(pilot_decision_latency_seconds_bucket[5m])))",
                        f"p{int(q * 100)}",
                    )
                    for q in (0.5, 0.95, 0.99)
                ),
                "s",
            ),
            Panel(
                "Where the time goes, mean",
                (
                    (
                        (
                            "sum by (stage) (rate(pilot_decision_stage_seconds_sum[5m]))"
                            " / sum by (stage) (rate(pilot_decision_stage_seconds_count[5m]))"
                        ),
                        "{{stage}}",
                    ),
                ),
                "s",
                stacked=True,
            ),
        ),
    ),
    (
        "Models",
        (
            Panel(
                "Share of decisions",
                (
                    (
                        (
                            'sum by (model) (pilot:decisions:rate5m{status="routed"})'
                            ' / scalar(sum(pilot:decisions:rate5m{status="routed"}))'
                        ),
                        "{{model}}",
                    ),
                ),
                "percentunit",
                stacked=True,
            ),
            Panel(
                "Spending",
                (
                    ('sum by (model) (rate(pilot_cost_usd_total{kind="settled"}[5m])) * 3600', "{{model}}"),
                    ("sum(rate(pilot_baseline_cost_usd_total[5m])) * 3600", "always the best model"),
                ),
                "currencyUSD",
                meaning="USD an hour, settled; the baseline is an estimate.",
            ),
            Panel("Failed calls", (("pilot:model_failures:ratio_10m", "{{model}}"),), "percentunit"),
        ),
    ),
    (
        "Learning",
        (
            Panel("Decisions with a reward", (("pilot:feedback_coverage:ratio_1h", "coverage"),), "percentunit"),
            Panel(
                "Reward expected minus observed",
                (("pilot:reward_overestimate:mean_1h", "{{model}}"),),
                meaning="Near 0 where the estimates are right.",
            ),
            Panel(
                "Cost observed to expected",
                (("pilot:cost_observed_to_expected:ratio_1h", "{{model}}"),),
                meaning="Near 1 where the estimates are right.",
            ),
            Panel("Expected reward", (("avg by (model) (pilot_model_expected_reward)", "{{model}}"),)),
            Panel("Its uncertainty", (("avg by (model) (pilot_model_uncertainty)", "{{model}}"),)),
            Panel("Rewards learned", (("max by (model) (pilot_model_observations)", "{{model}}"),)),
        ),
    ),
    (
        "Budgets",
        (
            Panel(
                "Used against passed",
                (
                    ("sum(pilot_budget_used_usd) / sum(pilot_budget_limit_usd)", "used"),
                    ("avg(pilot_budget_window_elapsed_ratio)", "window passed"),
                ),
                "percentunit",
            ),
            Panel(
                "Users",
                (
                    ("sum(pilot_budget_users)", "with spend"),
                    ("sum(pilot_budget_users_over_80_percent)", "over 80 %"),
                    ("sum(pilot_budget_users_exhausted)", "exhausted"),
                ),
            ),
            Panel("Rejections", (("sum by (reason) (rate(pilot_rejections_total[5m]))", "{{reason}}"),), "reqps"),
        ),
    ),
    (
        "Operations",
        (
            Panel("Lag", (("pilot:lag:sum", "{{topic}}"),), "short"),
            Panel("Age of the last commit", (("time() - pilot_last_commit_timestamp_seconds", "{{instance}}"),), "s"),
            Panel(
                "Dead letters",
                (("sum by (topic, code) (rate(pilot_dead_letters_total[5m]))", "{{topic}} {{code}}"),),
                "reqps",
            ),
            Panel("Replica lag", (("pilot_replica_lag_records", "{{instance}}"),)),
            Panel("Memory", (('process_resident_memory_bytes{job=~"pilot.*"}', "{{instance}}"),), "bytes"),
            Panel("CPU", (('rate(process_cpu_seconds_total{job=~"pilot.*"}[5m])', "{{instance}}"),), "percentunit"),
        ),
    ),
)


def panels() -> Iterator[dict[str, Any]]:
    """Rows and panels with their places, left to right, top to bottom."""
    number, y = 1, 0
    for heading, content in SECTIONS:
        yield {"id": number, "type": "row", "title": heading, "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}
        number, y, x, height = number + 1, y + 1, 0, 0
        for panel in content:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            height = 4 if panel.kind == "stat" else 8
            yield drawn(panel, number) | {"gridPos": {"x": x, "y": y, "w": panel.width, "h": height}}
            number, x = number + 1, x + panel.width
        y += height


def drawn(panel: Panel, number: int) -> dict[str, Any]:
    """A panel as Grafana reads it."""
    custom = {"fillOpacity": 30, "stacking": {"mode": "normal"}} if panel.stacked else {"fillOpacity": 0}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": None, **({"custom": custom} if panel.kind != "stat" else {})},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if panel.kind != "stat" else {},
        "targets": [
            {"refId": chr(ord("A") + k), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for k, (query, legend) in enumerate(panel.queries)
        ],
    }


def dashboard() -> str:
    """The dashboard as JSON."""
    content = {
        "uid": "pilot-router",
        "title": "PILOT Router",
        "tags": ["pilot-router"],
        "schemaVersion": 41,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "panels": list(panels()),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def prometheus_rule() -> str:
    """Recording and alert rules as the Prometheus Operator takes them."""
    groups: list[Any] = []
    for name in ("recording.yml", "alerts.yml"):
        groups += yaml.safe_load((DEPLOY / "prometheus" / name).read_text("utf-8"))["groups"]
    content = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "pilot-router"},
        "spec": {"groups": groups},
    }
    note = "# Written by scripts/make_deploy.py from deploy/prometheus.\n"
    return note + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True)


def main() -> int:
    """Write or check both files."""
    wanted = {DASHBOARD: dashboard(), RULES: prometheus_rule()}
    if "--check" in sys.argv[1:]:
        stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
        print("\n".join(f"{name}: run python scripts/make_deploy.py" for name in stale) or "up to date")
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
