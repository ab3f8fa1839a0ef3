"""The paper's two phases on votes of known origin."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.pretrain.voters import MODELS, drawn
from worker.core.disjoint import DisjointArms
from worker.core.kinds import unit
from worker.core.projection import fit
from worker.pretrain.battles import Battles
from worker.pretrain.triplet import arm_accuracy, build, preference_accuracy, second_phase

BATTLES, EMBEDDINGS, QUALITY = drawn(1)
PRIOR = build(BATTLES, EMBEDDINGS, encoder_id="e")


def contexts() -> np.ndarray:
    return PRIOR.projection.contexts(EMBEDDINGS, BATTLES.prompts, BATTLES.tasks)


def test_context_is_a_unit_vector_without_constant() -> None:
    """ψ̂ = (Wφ + b) at length 1: no intercept, no indicators."""
    np.testing.assert_allclose(np.linalg.norm(contexts(), axis=1), 1, rtol=1e-6)
    assert PRIOR.projection.dimension == len(PRIOR.projection.components)


def test_directions_have_unit_length_and_strength_is_one_over_accuracy() -> None:
    """‖θ_k⁰‖ = 1 and λ_k = 1 ÷ accuracy of arm k; the setting multiplies it."""
    assert PRIOR.preference is not None
    np.testing.assert_allclose(np.linalg.norm(PRIOR.preference.theta, axis=1), 1)
    accuracy = arm_accuracy(BATTLES, contexts(), PRIOR.preference.theta)
    np.testing.assert_allclose(PRIOR.preference.strength, 1 / accuracy, rtol=1e-6)
    stronger = build(BATTLES, EMBEDDINGS, encoder_id="e", strength=4.0).preference
    assert stronger is not None
    np.testing.assert_allclose(stronger.strength, 4 * PRIOR.preference.strength, rtol=1e-6)


def test_held_back_votes_are_predicted() -> None:
    """On prompts that training never saw, preferences are predicted well above chance."""
    assert PRIOR.report["held_back"]["accuracy"] > 0.7


def test_prior_knows_who_is_good_at_what() -> None:
    """The bandit that starts from θ⁰ prefers the coder on code and the poet on rhymes at once."""
    assert PRIOR.preference is not None
    dimension = PRIOR.projection.dimension
    model = DisjointArms(3, dimension, PRIOR.preference.strength, PRIOR.preference.theta, cosine=True)
    best = model.score_many(contexts())[0].argmax(axis=1)
    assert (best == QUALITY.argmax(axis=1)).mean() > 0.9
    assert (PRIOR.kind, PRIOR.models) == ("triplet", MODELS)


def test_training_finds_the_direction_that_preferences_need() -> None:
    """Where skill hangs on a direction that PCA dropped, phase 1 brings it back."""
    rng = np.random.default_rng(3)
    n = 600
    code = rng.random(n) < 0.5
    embeddings = rng.normal(size=(n, 40))
    embeddings[:, 0] = np.where(code, 0.4, -0.4)
    prompt = np.tile(np.arange(n), 2)
    outcome = np.where(code[prompt], 1.0, -1.0)
    votes = Battles([""] * n, [None] * n, ("a", "b"), prompt, np.zeros(2 * n, int), np.ones(2 * n, int), outcome)
    trained = build(votes, embeddings, encoder_id="e")
    start = fit(embeddings, "e").contexts(embeddings, votes.prompts, votes.tasks)[:, :-1]

    def separation(psi: np.ndarray) -> float:
        cosines = psi @ psi.T
        return float(cosines[np.ix_(code, code)].mean() - cosines[np.ix_(code, ~code)].mean())

    after = trained.projection.contexts(embeddings, votes.prompts, votes.tasks)
    assert separation(after) > 2 * separation(start)
    assert trained.report["held_back"]["accuracy"] > 0.75


def test_ties_pull_together() -> None:
    """In phase 2 a tie has target ½: models that always tie end with the same cosine."""
    n = 40
    psi = unit(np.random.default_rng(0).normal(size=(n, 5)))
    ties = Battles([""] * n, [None] * n, ("a", "b"), np.arange(n), np.zeros(n, int), np.ones(n, int), np.zeros(n))
    theta = second_phase(ties, psi)
    np.testing.assert_allclose(theta[0], theta[1], atol=1e-6)
    assert preference_accuracy(ties, psi, theta) == 0.5


def test_training_is_repeatable() -> None:
    """The same votes and seed give the same artefact."""
    again = build(BATTLES, EMBEDDINGS, encoder_id="e")
    assert again.fingerprint == PRIOR.fingerprint
    assert again.preference is not None
    assert PRIOR.preference is not None
    np.testing.assert_array_equal(again.preference.theta, PRIOR.preference.theta)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_votes_that_teach_no_distance_still_give_a_prior(outcome: float) -> None:
    """Only ties, or one model that always wins: no triplets exist, and PCA stays."""
    n = len(BATTLES)
    votes = Battles(BATTLES.prompts, BATTLES.tasks, ("a", "b"), BATTLES.prompt, np.zeros(n, int), np.ones(n, int),
                    np.full(n, outcome))  # fmt: skip
    found = build(votes, EMBEDDINGS, encoder_id="e").preference
    assert found is not None
    assert np.isfinite(found.theta).all()
