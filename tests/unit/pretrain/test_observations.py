"""Battles as observations of reward differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.unit.pretrain.voters import MODELS, drawn
from worker.core.coupled import CoupledArms, Hyper
from worker.core.prior import Prior, default_prior
from worker.core.verdict import FloatArray
from worker.pretrain.observations import build, build_foreign


def scored(prior: Prior, contexts: FloatArray) -> tuple[FloatArray, FloatArray]:
    known = prior.arms(prior.models)
    model = CoupledArms(len(prior.models), prior.projection.dimension, prior.hyper)
    model.refresh([known[name].reward for name in prior.models])
    return model.score_many(contexts)


def test_prior_knows_who_is_good_at_what() -> None:
    """From votes alone the coder leads on code, the poet on rhymes, the weak one nowhere."""
    battles, embeddings, quality = drawn(4)
    prior = build(battles, embeddings, encoder_id="e")
    contexts = prior.projection.contexts(embeddings, battles.prompts, battles.tasks)
    best = scored(prior, contexts)[0].argmax(axis=1)
    assert (best == quality.argmax(axis=1)).mean() > 0.95
    assert (prior.kind, prior.models) == ("battles", MODELS)
    assert prior.battles is not None
    assert prior.battles.counts == dict(zip(MODELS, battles.counts.tolist(), strict=True))
    assert prior.hyper != Hyper()


def test_noise_of_voting_is_found() -> None:
    """Votes that follow from one score of each answer are taken for exact, those drawn anew every time for noisy."""
    battles, embeddings, quality = drawn(5)
    scores = (np.random.default_rng(5).random(quality.shape) < quality).astype(np.float64)
    follow = scores[battles.prompt, battles.a] - scores[battles.prompt, battles.b]
    exact = build(replace(battles, outcome=follow), embeddings, encoder_id="e")
    noisy = build(battles, embeddings, encoder_id="e")
    assert exact.report["vote_noise"] == 0.1
    assert noisy.report["vote_noise"] >= 1
    assert noisy.battles is not None
    assert noisy.battles.vote_noise == noisy.report["vote_noise"]


def test_report_says_what_the_votes_foretell() -> None:
    """On held-back prompts skill by kind beats the models' averages, and every model's battles are counted."""
    battles, embeddings, _ = drawn(7)
    report = build(battles, embeddings, encoder_id="e").report
    held = report["held_back"]
    assert held["votes"] > 100
    assert held["accuracy"] > held["pair_majority"] + 0.1
    assert held["accuracy"] > held["strength"] + 0.1
    assert report["counts"] == dict(zip(MODELS, battles.counts.tolist(), strict=True))
    assert report["ties"] == int((battles.outcome == 0).sum())


def test_foreign_votes_move_only_the_averages() -> None:
    """Votes from elsewhere change the level of each model, by half of its strength, and nothing by context."""
    battles, _, _ = drawn(6)
    prior = build_foreign(battles)
    means, deviations = scored(prior, default_prior().contexts[:50])
    assert prior.fingerprint == default_prior().fingerprint
    np.testing.assert_allclose(means.std(axis=0), 0, atol=1e-12)
    assert prior.battles is not None
    differences = np.array([prior.battles.strengths()[name] for name in MODELS]) / 2
    # Most of the difference survives the prior's own pull: variance .03 against 1.
    np.testing.assert_allclose(means[0] - means[0].mean(), differences, atol=0.05 * np.abs(differences).max())
    assert deviations.min() > 0.1
