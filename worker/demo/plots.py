"""The four plots of the report, each as one inline SVG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.core.verdict import FloatArray
from worker.demo.baselines import REJECTED
from worker.demo.plan import Plan
from worker.demo.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_IN = (7.2, 4.0)
BINS = 24
SMOOTH_OVER = 100  # queries in one point of the moving averages
PLANNED_COLOUR, REJECTED_COLOUR = "#999999", "#d62728"


def quality_against_cost(results: Results) -> str:
    """Every way of choosing as a point: share of the best model's quality against its cost in USD."""
    axes = _axes("cost of the whole stream, USD", "share of the best model's quality")
    for each in results.comparisons:
        axes.errorbar(each.cost_usd, each.quality_share, yerr=each.quality_error, fmt="o", capsize=3, label=each.name)
    axes.set_xscale("log")
    axes.legend(loc="lower right")
    return _svg(axes)


def spend_over_time(results: Results, plan: Plan) -> str:
    """Share of each user's limit that is spent, against seconds, beside an even pace."""
    axes = _axes("seconds", "spent share of the user's limit")
    stream, cost = results.stream, results.outcomes[0].cost
    for number, limit in enumerate(plan.limits_usd.values()):
        own = stream.user == number
        axes.step(stream.at_s[own], np.cumsum(cost[own]) / limit, where="post", linewidth=1, alpha=0.7)
    axes.plot([0, plan.duration_s], [0, 1], linestyle="--", color=PLANNED_COLOUR, label="even pace")
    axes.axhline(1, color=REJECTED_COLOUR, linewidth=0.8, label="limit")
    axes.legend(loc="upper left")
    return _svg(axes)


def share_of_models(results: Results, plan: Plan, names: tuple[str, ...]) -> str:
    """Which share of the queries each model answered, against seconds."""
    axes = _axes("seconds", "share of the queries")
    edges = np.linspace(0, plan.duration_s, BINS + 1)
    options = [*range(len(names)), REJECTED]
    counts = np.array([np.histogram(results.stream.at_s[results.stream.choice == k], edges)[0] for k in options])
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    axes.stackplot((edges[:-1] + edges[1:]) / 2, shares, labels=[*names, "rejected"])
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right", fontsize="small")
    return _svg(axes)


def reward_while_learning(results: Results) -> str:
    """Moving mean of the reward of the router and of the baselines, against queries."""
    axes = _axes("queries", f"mean reward of the last {SMOOTH_OVER} queries")
    for outcome in results.outcomes:
        bold = outcome is results.outcomes[0]
        axes.plot(
            *_moving_mean(outcome.reward), label=outcome.name, linewidth=2 if bold else 1, alpha=1 if bold else 0.7
        )
    axes.legend(loc="lower right", fontsize="small")
    return _svg(axes)


def _moving_mean(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    width = min(SMOOTH_OVER, len(values))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    return np.arange(width, len(values) + 1, dtype=np.float64), (sums[width:] - sums[:-width]) / width


def _axes(across: str, up: str) -> Axes:
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: no global state and no display.
    axes: Axes = Figure(figsize=SIZE_IN, layout="constrained").subplots()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _svg(axes: Any) -> str:
    written = io.StringIO()
    axes.figure.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :]  # without the XML declaration, which has no place inside HTML
