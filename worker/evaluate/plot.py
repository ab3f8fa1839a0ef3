"""Plots of a comparison: quality against cost, use of the budget, regret over rounds, share of models."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np

from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.evaluate.experiment import Run
from worker.evaluate.replay import REJECTED, Outcome
from worker.evaluate.table import Split, Table

KINDS = (".png", ".svg", ".html")
_SIZE_INCHES = (14, 10)
_CUT = 2.0  # of budgets, what a bar shows at most
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_STYLE = "body{font-family:sans-serif;max-width:80rem;margin:auto}td,th{padding:.2rem .8rem;text-align:right}"


def check(path: Path) -> None:
    """Refuse a name whose kind nobody can draw, before any work is done.

    Raises:
        UsageError: the suffix is not one of `KINDS`.
    """
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"--plot {path}: use a name that ends in {', '.join(KINDS)}")


def draw(path: Path, document: dict[str, Any], table: Table, splits: Sequence[Split], runs: Sequence[Run]) -> None:
    """Draw four panels into one file. `runs` are those of the first split and seed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=_SIZE_INCHES, layout="constrained")
    figure.suptitle(f"{document['table']}: best model {document['best_model']}")
    _quality(panels[0, 0], document, table, splits)
    _budget_use(panels[0, 1], document)
    _regret(panels[1, 0], document, runs)
    _shares(panels[1, 1], table, runs)
    kind = path.suffix.lower()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png" if kind == ".png" else "svg", dpi=120)
    plt.close(figure)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(_page(document, buffer.getvalue()) if kind == ".html" else buffer.getvalue())
    temporary.replace(path)


def _quality(panel: Any, document: dict[str, Any], table: Table, splits: Sequence[Split]) -> None:
    for policy, colour in _colours(document).items():
        own = [result for result in document["results"] if result["policy"] == policy]
        spent = [result["budget_share"] * result["budget_used_share"] for result in own]
        panel.plot(spent, [result["quality_share"] for result in own], marker="o", label=policy, color=colour)
    rows = np.concatenate([split.test for split in splits])
    rewards = table.rewards[rows].mean(axis=0) / max(document["best_reward"], 1e-12)
    costs = table.costs[rows].mean(axis=0) / document["best_cost_usd"]
    panel.scatter(costs, rewards, marker="x", color="black", label="single models", zorder=3)
    for model, cost, reward in zip(table.models, costs, rewards, strict=True):
        place = {"xytext": (0, -10), "textcoords": "offset points", "ha": "center"}
        panel.annotate(model.split("/")[-1], (cost, reward), fontsize=6, alpha=0.7, **place)
    panel.set(xscale="log", xlabel="spent, share of what the best model costs", ylabel="quality, share of its reward")
    panel.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=None))
    panel.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    _legend(panel)


def _budget_use(panel: Any, document: dict[str, Any]) -> None:
    used = [result["budget_used_share"] for result in document["results"]]
    colours = _colours(document)
    labels = [f"{result['policy']} {result['budget_share']:.3g}" for result in document["results"]]
    bars = panel.barh(
        labels, np.minimum(used, _CUT), color=[colours[result["policy"]] for result in document["results"]]
    )
    panel.bar_label(bars, [f"{share:.3g}" for share in used], fontsize=6, padding=2)
    panel.axvline(1.0, color="black", linewidth=1)
    panel.tick_params(axis="y", labelsize=7)
    panel.set(xlabel=f"spent ÷ budget (bars are cut at {_CUT:g})", xlim=(0, _CUT * 1.1))
    panel.invert_yaxis()


def _regret(panel: Any, document: dict[str, Any], runs: Sequence[Run]) -> None:
    """Learning rounds have an axis of their own, to the left of 0: other policies have none to be compared with."""
    colours = _colours(document)
    dashes: dict[float, str] = {}
    for run in runs:
        dash = dashes.setdefault(run.cell.budget, _DASHES[len(dashes) % len(_DASHES)])
        line = {"color": colours[run.policy], "linestyle": dash, "linewidth": 1}
        lost = np.cumsum(run.cell.task.rewards.max(axis=1) - run.outcome.rewards)
        panel.plot(np.arange(1, len(lost) + 1), lost, **line)
        if run.learning is not None and run.learning_task is not None:
            lost = np.cumsum(run.learning_task.rewards.max(axis=1) - run.learning.rewards)
            panel.plot(np.arange(1, len(lost) + 1) - len(lost), lost, **line)
            panel.axvline(0, color="black", linewidth=1)
    for policy in dict.fromkeys(run.policy for run in runs):
        panel.plot([], [], color=colours[policy], label=policy)
    for budget, dash in dashes.items():
        panel.plot([], [], color="black", linestyle=dash, label=f"budget {budget:.3g}")
    panel.set(
        xlabel="test round; up to 0 the learning rounds, counted apart (first split and seed)",
        ylabel="regret: best of each row − earned, summed",
    )
    _legend(panel)


def _shares(panel: Any, table: Table, runs: Sequence[Run]) -> None:
    named = [run for run in runs if run.outcome.choice is not None]
    labels = [f"{run.policy} {run.cell.budget:.3g}" for run in named]
    shares = np.array([_model_shares(run.outcome, len(table.models)) for run in named]).reshape(len(named), -1)
    left = np.zeros(len(named))
    colours = mpl.colormaps["tab20"](range(20))
    for arm, model in enumerate(table.models if named else ()):
        panel.barh(labels, shares[:, arm], left=left, label=model.split("/")[-1], color=colours[arm % len(colours)])
        left += shares[:, arm]
    panel.set(xlabel="share of the test rounds, the rest rejected (first split and seed)", xlim=(0, 1))
    panel.tick_params(axis="y", labelsize=7)
    panel.invert_yaxis()
    if named:
        _legend(panel)


def _colours(document: dict[str, Any]) -> dict[str, str]:
    """The same colour for a policy in every panel."""
    return {name: f"C{k}" for k, name in enumerate(dict.fromkeys(r["policy"] for r in document["results"]))}


def _legend(panel: Any) -> None:
    panel.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))  # beside the panel, which has no room


def _model_shares(outcome: Outcome, models: int) -> FloatArray:
    assert outcome.choice is not None
    counts = np.bincount(outcome.choice[outcome.choice != REJECTED], minlength=models)
    shares: FloatArray = counts / len(outcome.choice)
    return shares


def _page(document: dict[str, Any], svg: bytes) -> bytes:
    image = base64.b64encode(svg).decode()
    columns = ("policy", "budget_share", "quality_share", "vs_static_mix", "vs_static_mix_se", "budget_used_share")
    head = "".join(f"<th>{name}</th>" for name in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(result[name])}</td>" for name in columns) + "</tr>"
        for result in document["results"]
    )
    title = html.escape(f"Evaluation of {document['table']}")
    page = (
        f"<!doctype html><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style>"
        f"<h1>{title}</h1><img src='data:image/svg+xml;base64,{image}' style='width:100%' alt='plots'>"
        f"<table><tr>{head}</tr>{rows}</table>"
    )
    return page.encode()


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else html.escape("" if value is None else str(value))
