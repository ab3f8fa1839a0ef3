"""Runs of a comparison: what a policy may know, and what comes out."""

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.evaluate.conftest import make_embeddings, make_table
from worker import routing
from worker.core.prior import default_prior
from worker.core.router import RouterOptions
from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.evaluate.experiment import Bench, Comparison, Run
from worker.evaluate.measure import measure
from worker.evaluate.table import Table, random_splits
from worker.evaluate.traffic import Crowd
from worker.pretrain.table import build
from worker.settings import load


def bench(table: Table, embeddings: FloatArray, comparison: Comparison, splits: int = 1) -> Bench:
    return Bench(table, embeddings, default_prior().encoder, random_splits(table, splits), comparison)


def run(table: Table, embeddings: FloatArray, **options: object) -> list[Run]:
    comparison = Comparison(**{"policies": ["pacing"], "budgets": [0.4], "seeds": 1, **options})  # type: ignore[arg-type]
    return list(bench(table, embeddings, comparison).runs())


def test_a_warm_router_beats_the_static_mix_within_its_budget(table: Table, embeddings: FloatArray) -> None:
    """Where the embedding shows which prompts are hard, routing pays, and the budget is used and kept."""
    (done,) = run(table, embeddings, freeze=True)
    figures = measure(done)
    assert figures.vs_static_mix > 0.03
    assert figures.budget_used_share == pytest.approx(1.0, abs=0.05)
    assert figures.rejected_share < 0.02


def test_late_feedback_rejects_hardly_anybody(table: Table, embeddings: FloatArray) -> None:
    """With nearly all test rows open at once the pace leaves their reservations room."""
    (done,) = run(table, embeddings, freeze=True, delay=100, budgets=[0.1])
    assert len(done.outcome.rows) == 120
    assert measure(done).rejected_share < 0.03


def test_a_setting_chooses_disjoint_arms(table: Table, embeddings: FloatArray) -> None:
    """PILOT_REWARD_MODEL reaches the replay: arms that learn alone choose otherwise, and still keep the budget."""
    options = routing.options(load(environ={"PILOT_REWARD_MODEL": "disjoint"})[0])
    assert options == replace(RouterOptions(), rewards="disjoint")
    (alone,), (together,) = (run(table, embeddings, source="bandit", router=o) for o in (options, RouterOptions()))
    assert alone.outcome.choice is not None
    assert together.outcome.choice is not None
    assert alone.outcome.choice.tolist() != together.outcome.choice.tolist()
    assert measure(alone).vs_static_mix > 0
    assert measure(alone).max_overspend <= 1.01


def test_learning_from_nothing_ends_near_the_ceiling(table: Table, embeddings: FloatArray) -> None:
    """Bandit rounds on the train rows, one score each, come within some points of all scores known."""
    cold, ceiling = run(table, embeddings, source="bandit", freeze=True, policies=["pacing", "ceiling"])
    assert cold.learning is not None
    assert len(cold.learning.rows) == 280
    assert measure(cold).quality_share > measure(ceiling).quality_share - 0.12


def test_test_rewards_reach_nobody_before_their_turn(table: Table, embeddings: FloatArray) -> None:
    """Scores of test rows that were not chosen may be anything: every choice stays the same."""
    (plain,) = run(table, embeddings, source="bandit")
    assert plain.outcome.choice is not None
    changed = table.rewards.copy()
    for row, arm in zip(plain.outcome.rows, plain.outcome.choice, strict=True):
        for other in range(3):
            if other != arm:
                changed[row, other] = changed[row, other] / 2
    (again,) = run(replace(table, rewards=changed), embeddings, source="bandit")
    assert again.outcome.choice is not None
    if again.cell.task.best == plain.cell.task.best:
        assert again.outcome.choice.tolist() == plain.outcome.choice.tolist()


def test_a_frozen_router_learns_nothing_from_the_test(table: Table, embeddings: FloatArray) -> None:
    """With --freeze not even the chosen scores change a later choice."""
    (plain,) = run(table, embeddings, freeze=True)
    split = random_splits(table, 1)[0]
    changed = table.rewards.copy()
    changed[split.test] = changed[split.test] * 0.99
    (again,) = run(replace(table, rewards=changed), embeddings, freeze=True)
    assert plain.outcome.choice is not None
    assert again.outcome.choice is not None
    assert again.outcome.choice.tolist() == plain.outcome.choice.tolist()


def test_the_same_seed_repeats_every_figure(table: Table, embeddings: FloatArray) -> None:
    """Two benches of the same options agree in every round."""
    first, second = (run(table, embeddings, source="bandit")[0].outcome for _ in range(2))
    assert first.rewards.tolist() == second.rewards.tolist()
    assert first.spent.tolist() == second.spent.tolist()


def test_worst_case_never_exceeds_a_users_budget() -> None:
    """With bounds that hold, no user's window is overdrawn, whatever the delay."""
    table = make_table(bounds=True)
    crowd = Crowd(users=20, queries=600, windows=2, horizon="learned", budget_spread=0.5)
    (done,) = run(
        table, make_embeddings(table), crowd=crowd, delay=50, router=RouterOptions(reserve="worst_case"), source="none"
    )
    assert (done.outcome.spent <= done.outcome.limits + 1e-9).all()
    assert measure(done).users_over_share == 0


def test_late_feedback_still_settles(table: Table, embeddings: FloatArray) -> None:
    """With a delay longer than the run all the money is settled at its end."""
    (done,) = run(table, embeddings, delay=10_000)
    assert done.outcome.spent.sum() == pytest.approx(done.outcome.costs.sum(), abs=1e-6)


def test_an_artefact_learns_from_as_many_rows_as_asked(table: Table, embeddings: FloatArray) -> None:
    """--learn N replays the first N train rows of the seed's order; without it none."""
    artefact = build(
        table.prompts, table.rewards, table.costs, table.models, embeddings, encoder_id=default_prior().encoder
    )
    (learned,) = run(table, embeddings, source="file", artefact=artefact, learn=50)
    (plain,) = run(table, embeddings, source="file", artefact=artefact)
    assert learned.learning is not None
    assert len(set(learned.learning.rows.tolist())) == 50
    assert plain.learning is None


class TestRefusals:
    """What cannot be compared, each with a line that says what to do."""

    def test_label_lookup_without_labels(self, table: Table, embeddings: FloatArray) -> None:
        """The lookup needs a column to look up."""
        with pytest.raises(UsageError, match="--label-column"):
            bench(replace(table, labels=None), embeddings, Comparison(["label-lookup"], [0.5]))

    def test_a_prior_of_another_encoder(self, table: Table, embeddings: FloatArray) -> None:
        """Embeddings of two encoders never mix."""
        prior = default_prior()
        foreign = replace(prior, projection=replace(prior.projection, encoder="other"))
        with pytest.raises(UsageError, match=r"encoder 'other'.*pilot pretrain"):
            bench(table, embeddings, Comparison(["pacing"], [0.5], "file", foreign))

    def test_a_model_that_the_prior_does_not_know(self, table: Table, embeddings: FloatArray) -> None:
        """The models are named, and the option that leaves them out."""
        prior = replace(default_prior(), models=("small", "large"))
        with pytest.raises(UsageError, match=r"does not know medium; .*--model"):
            bench(table, embeddings, Comparison(["pacing"], [0.5], "file", prior))


def test_label_lookup_knows_the_label_and_is_paced(table: Table, embeddings: FloatArray) -> None:
    """The lookup beats the static mix here and stays within its budget."""
    (done,) = run(table, embeddings, policies=["label-lookup"])
    figures = measure(done)
    assert figures.vs_label_lookup == 0
    assert figures.vs_static_mix > 0.03
    assert figures.budget_used_share == pytest.approx(1.0, abs=0.05)
    assert np.isin(done.outcome.choice, [0, 1, 2]).mean() > 0.97
