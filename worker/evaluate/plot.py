"""Plots of a comparison: quality against cost, use of the budget, regret over rounds, share of models."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.evaluate.experiment import Run
from worker.evaluate.replay import REJECTED, Outcome
from worker.evaluate.table import Split, Table

KINDS = (".png", ".svg", ".html")
_SIZE_INCHES = (13, 9)
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
    _regret(panels[1, 0], runs)
    _shares(panels[1, 1], table, runs)
    kind = path.suffix.lower()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png" if kind == ".png" else "svg", dpi=120)
    plt.close(figure)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(_page(document, buffer.getvalue()) if kind == ".html" else buffer.getvalue())
    temporary.replace(path)


def _quality(panel: Any, document: dict[str, Any], table: Table, splits: Sequence[Split]) -> None:
    for policy in dict.fromkeys(result["policy"] for result in document["results"]):
        own = [result for result in document["results"] if result["policy"] == policy]
        spent = [result["budget_share"] * result["budget_used_share"] for result in own]
        panel.plot(spent, [result["quality_share"] for result in own], marker="o", label=policy)
    rows = np.concatenate([split.test for split in splits])
    rewards = table.rewards[rows].mean(axis=0) / max(document["best_reward"], 1e-12)
    costs = table.costs[rows].mean(axis=0) / document["best_cost_usd"]
    panel.scatter(costs, rewards, marker="x", color="black", label="single models")
    for model, cost, reward in zip(table.models, costs, rewards, strict=True):
        panel.annotate(model.split("/")[-1], (cost, reward), fontsize=6, alpha=0.7)
    panel.set(xscale="log", xlabel="cost, share of the best model's", ylabel="quality, share of the best model's")
    panel.legend(fontsize=7)


def _budget_use(panel: Any, document: dict[str, Any]) -> None:
    labels = [f"{result['policy']} {result['budget_share']:.0%}" for result in document["results"]]
    panel.barh(labels, [min(result["budget_used_share"], 2.0) for result in document["results"]])
    panel.axvline(1.0, color="black", linewidth=1)
    panel.tick_params(axis="y", labelsize=7)
    panel.set(xlabel="spent ÷ budget (cut at 2)")
    panel.invert_yaxis()


def _regret(panel: Any, runs: Sequence[Run]) -> None:
    for run in runs:
        lost = run.cell.task.rewards.max(axis=1) - run.outcome.rewards
        if run.learning is not None and run.learning_task is not None:
            lost = np.concatenate([run.learning_task.rewards.max(axis=1) - run.learning.rewards, lost])
        panel.plot(np.cumsum(lost), label=f"{run.policy} {run.cell.budget:.0%}", linewidth=1)
    panel.set(xlabel="round (learning rounds first)", ylabel="regret: best of each row − earned, summed")
    panel.legend(fontsize=6)


def _shares(panel: Any, table: Table, runs: Sequence[Run]) -> None:
    named = [run for run in runs if run.outcome.choice is not None]
    labels = [f"{run.policy} {run.cell.budget:.0%}" for run in named]
    shares = np.array([_model_shares(run.outcome, len(table.models)) for run in named]).reshape(len(named), -1)
    left = np.zeros(len(named))
    colours = mpl.colormaps["tab20"](range(20))
    for arm, model in enumerate(table.models if named else ()):
        panel.barh(labels, shares[:, arm], left=left, label=model.split("/")[-1], color=colours[arm % len(colours)])
        left += shares[:, arm]
    panel.set(xlabel="share of the test rounds", xlim=(0, 1))
    panel.tick_params(axis="y", labelsize=7)
    panel.invert_yaxis()
    if named:
        panel.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, which fill the panel


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
