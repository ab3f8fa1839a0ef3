r"""Draw docs/quality-cost.svg, quality against cost on RouterBench: results of `pilot evaluate` and the table itself.

pilot evaluate $RB --splits 5 --seeds 1 --freeze --policy pacing --policy static-mix --policy gateway \
    --json results.json --budget .05 --budget .08 --budget .113 --budget .17 --budget .25 --budget .35 \
    --budget .5 --budget .75 --budget 1
python scripts/make_picture.py results.json $DATA/routerbench_train.parquet
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import pandas as pd

OUT = Path(__file__).parents[1] / "docs" / "quality-cost.svg"
LINES = {
    "pacing": ("PILOT Router", "tab:blue"),
    "static-mix": ("best mix of two models, in hindsight", "tab:orange"),
    "gateway": ("best model while a fallback stays affordable", "tab:green"),
}
LEFT = ("mixtral", "Yi-34B", "code-llama", "WizardLM", "gpt-4")  # their labels would lie on others to the right


def main(results: str, table: str) -> None:
    """Draw."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "quality-cost", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    document = json.loads(Path(results).read_text())
    figure, panel = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for policy, (label, colour) in LINES.items():
        own = [found for found in document["results"] if found["policy"] == policy]
        spent = [found["budget_share"] * found["budget_used_share"] for found in own]
        panel.plot(spent, [found["quality_share"] for found in own], marker="o", color=colour, label=label)
    _models(panel, pd.read_parquet(table), document["best_model"])
    panel.set(xscale="log", xlim=(0.01, 1.25), ylim=(0.6, 1.03))
    panel.set(xlabel="spent, of what the best model costs", ylabel="quality, of the best model's")
    panel.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    panel.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    panel.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    panel.grid(alpha=0.3)
    panel.legend(loc="upper left", fontsize=9)
    figure.savefig(OUT, metadata={"Date": None, "Creator": None})


def _models(panel: Any, rows: pd.DataFrame, best: str) -> None:
    """Every single model as a cross with its name."""
    models = [column.removeprefix("score:") for column in rows if column.startswith("score:")]
    rewards, costs = rows[[f"score:{model}" for model in models]].mean(), rows[[f"cost:{m}" for m in models]].mean()
    of = next(model for model in models if model.endswith(best))
    for model in models:
        at = (costs[f"cost:{model}"] / costs[f"cost:{of}"], rewards[f"score:{model}"] / rewards[f"score:{of}"])
        panel.scatter(*at, marker="x", color="black", zorder=3)
        name = model.split("/")[-1]
        left = name.startswith(LEFT)
        place = {"xytext": (-6 if left else 6, -2), "textcoords": "offset points", "ha": "right" if left else "left"}
        panel.annotate(name, at, fontsize=8, alpha=0.8, **place)


if __name__ == "__main__":
    main(*sys.argv[1:])
