"""The report of a comparison: the JSON that the contract names, and a table for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from worker.evaluate.experiment import Comparison
from worker.evaluate.measure import Measured, summarise
from worker.evaluate.table import Split, Table

Measures = dict[tuple[str, float], list[Measured]]


def as_json(
    table: Table, splits: Sequence[Split], comparison: Comparison, measures: Measures, *, prior: str, preset: str
) -> dict[str, Any]:
    """The document; one result per policy × budget in the order of the options."""
    bests = [int(table.rewards[split.test].mean(axis=0).argmax()) for split in splits]
    rewards = [float(table.rewards[split.test, best].mean()) for split, best in zip(splits, bests, strict=True)]
    costs = [float(table.costs[split.test, best].mean()) for split, best in zip(splits, bests, strict=True)]
    crowd = comparison.crowd
    fixed = {
        "preset": preset,
        "prior": prior,
        "learn": comparison.learn,
        "reserve": comparison.router.reserve,
        "users": crowd.users,
        "queries": crowd.queries or len(splits[0].test),
        "horizon": crowd.horizon,
        "splits": len(splits),
        "seeds": comparison.seeds,
    }
    results = [
        {"policy": policy, "budget_share": budget, **fixed, **asdict(summarise(measures[policy, budget], splits))}
        for policy in comparison.policies
        for budget in comparison.budgets
    ]
    return {
        "table": table.name,
        "best_model": table.models[Counter(bests).most_common(1)[0][0]],
        "best_reward": sum(rewards) / len(splits),
        "best_cost_usd": sum(costs) / len(splits),
        "rows": len(table.prompts),
        "labels": None if table.labels is None else len(set(table.labels)),
        "results": results,
    }


def write_json(document: dict[str, Any], path: Path) -> None:
    """Write the document; a file that was there is replaced only by a complete one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(document, indent=2) + "\n")
    temporary.replace(path)


def as_table(document: dict[str, Any]) -> RichTable:
    """The results for the terminal; ± is one standard error."""
    title = f"{document['table']}: best model {document['best_model']}, reward {document['best_reward']:.4f}"
    view = RichTable(title=f"{title}, {document['best_cost_usd']:.3g} USD a query")
    for column in ("policy", "budget", "quality", "vs static mix", "vs label lookup", "learning", "used", "rejected"):
        view.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    view.add_column("users over", justify="right")
    view.add_column("decisions/s", justify="right")
    for result in document["results"]:
        view.add_row(
            result["policy"],
            f"{result['budget_share']:.1%}",
            f"{result['quality_share']:.4f}",
            _difference(result["vs_static_mix"], result["vs_static_mix_se"]),
            _difference(result["vs_label_lookup"], result["vs_label_lookup_se"]),
            _number(result["learning_quality_share"], ".4f"),
            f"{result['budget_used_share']:.3f}",
            f"{result['rejected_share']:.3f}",
            f"{result['users_over_share']:.3f}",
            _number(result["decisions_per_s"], ",.0f"),
        )
    return view


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _difference(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:+.4f}" if error is None else f"{value:+.4f} ± {error:.4f}"
