from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from worker.demo import data
from worker.demo.data import Dataset
from worker.errors import UsageError
from worker.pretrain.battles import read_battles


@pytest.fixture(scope="module")
def shipped() -> Dataset:
    """The data set of the installed package."""
    return data.load()


def test_shipped_rows_are_the_published_ones(shipped: Dataset) -> None:
    """Counts and mean rewards are those published with the data set."""
    assert (len(shipped.prior.prompts), len(shipped.stream.prompts)) == (1785, 1824)
    means = dict(zip(shipped.names, shipped.stream.rewards.mean(axis=0).round(4), strict=True))
    assert means == {
        "meta-llama/llama-3.1-8b-instruct": 0.7931,
        "mistralai/mistral-large-2512": 0.9231,
        "google/gemini-2.5-pro": 0.9322,
    }


def test_no_streamed_prompt_is_in_the_prior(shipped: Dataset) -> None:
    """The prior has not seen a prompt that it will be judged on."""
    assert not set(shipped.prior.prompts) & set(shipped.stream.prompts)


def test_fewer_prior_rows_are_of_every_kind(shipped: Dataset) -> None:
    """They are rows of the whole in their order, from the first to the last; more than there are is all."""
    few = shipped.prior.thinned(300)
    rows = [shipped.prior.prompts.index(prompt) for prompt in few.prompts]
    assert (rows[0], rows[-1], len(set(rows))) == (0, 1784, 300)
    assert max(np.diff(rows)) == 6
    assert few.rewards.tolist() == shipped.prior.rewards[rows].tolist()
    assert few.costs.tolist() == shipped.prior.costs[rows].tolist()
    assert shipped.prior.thinned(5000).prompts == shipped.prior.prompts


def test_list_prices_explain_the_recorded_charges(shipped: Dataset) -> None:
    """At list price the expected tokens cost what the calls were charged on average, within 1 %."""
    tokens = float(np.mean([len(prompt.encode()) for prompt in shipped.prior.prompts])) / 4
    for column, model in enumerate(shipped.models):
        at_list = model.input_usd_per_mtok * tokens + model.output_usd_per_mtok * model.expected_output_tokens
        assert at_list * 1e-6 == pytest.approx(shipped.prior.costs[:, column].mean(), rel=0.01)


def test_table_has_a_reward_and_a_cost_for_each_model(tiny: Dataset, tmp_path: Path) -> None:
    """The written table is what `pilot pretrain table` reads by default: one prompt a line."""
    path = tmp_path / "table.jsonl"
    data.write_table(path, tiny.prior, tiny.names)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 4
    assert rows[0] == {"prompt": "one", "reward:small": 0.0, "reward:large": 1.0, "cost:small": 1.0, "cost:large": 4.0}


def test_scores_become_votes_between_all_pairs(tiny: Dataset, tmp_path: Path) -> None:
    """The higher reward wins, equal ones tie; `pilot pretrain preferences` can read the file."""
    path = tmp_path / "battles.jsonl"
    data.write_battles(path, tiny.prior, tiny.names)
    battles = read_battles(path)
    assert battles.models[battles.a[0]] == "small"
    assert battles.outcome.tolist() == [-1, 0, -1, -1]


def test_missing_extra_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the error names what is missing and how to install it."""
    monkeypatch.setattr(data, "EXTRA", ("no_such_module_anywhere",))
    with pytest.raises(UsageError, match=r"no_such_module_anywhere; run: pip install 'pilot-router\[demo\]'"):
        data.load()
