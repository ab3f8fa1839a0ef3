"""A prior from battles, read as noisy observations of reward differences; the algebra is in `worker.core.pairs`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from worker.core.coupled import Hyper
from worker.core.evidence import maximise
from worker.core.pairs import BattlePosterior, PairSums, gather
from worker.core.prior import Prior, default_prior
from worker.core.verdict import FloatArray
from worker.pretrain.battles import Battles
from worker.pretrain.features import fit_features, sample
from worker.pretrain.holdout import foretold, hold_back

# κ to choose from: .1 where votes follow from scores, 1 to 3 where people vote. The noise of rewards is tried with it.
_VOTE_NOISES = (0.1, 0.3, 1.0, 3.0)
_REWARD_NOISES = (0.05, 0.1, 0.2, 0.4)
# Votes see differences of arms only, and nothing of what these share.
_SEEN = ("tau_d2", "sigma2")


def build(battles: Battles, embeddings: FloatArray, *, encoder_id: str, seed: int = 0) -> Prior:
    """Own votes, embeddings of the distinct prompts of shape (m, E) → a prior of kind `battles`.

    Features are fitted on these prompts. Hyper-parameters and the noise of voting are those
    of highest evidence for the votes on all but the held-back prompts; the sums hold all.
    """
    projection = fit_features(embeddings, encoder_id, battles.prompts, battles.tasks, seed=seed)
    contexts = projection.contexts(embeddings, battles.prompts, battles.tasks)
    train, test = hold_back(battles, seed)
    noise, posterior = _likeliest(train, contexts)
    hyper = maximise(posterior.evidence, Hyper(), _SEEN)
    theta = posterior.mean(hyper)
    margin = np.vecdot(contexts[test.prompt], theta[test.a] - theta[test.b])
    pairs = pair_sums(battles, contexts, noise)
    return Prior(
        kind="battles",
        projection=projection,
        contexts=sample(contexts, seed),
        models=battles.models,
        battles=pairs,
        hyper=hyper,
        report=_report(battles, pairs) | {"vote_noise": noise, "held_back": foretold(train, test, margin)},
    )


def build_foreign(battles: Battles, seed: int = 0) -> Prior:
    """Votes from elsewhere → averages of the models on the shipped projection."""
    shipped = default_prior()
    contexts = np.zeros((len(battles.prompts), shipped.projection.dimension))
    contexts[:, -1] = 1.0
    pairs = pair_sums(battles, contexts, foreign=True)
    return Prior(
        kind="battles",
        projection=shipped.projection,
        contexts=shipped.contexts,
        models=battles.models,
        battles=pairs,
        report=_report(battles, pairs) | {"held_back": foretold(*hold_back(battles, seed))},
    )


def pair_sums(battles: Battles, contexts: FloatArray, vote_noise: float = 1.0, *, foreign: bool = False) -> PairSums:
    """The sums per pair; `contexts` has shape (m, d), a row a distinct prompt."""
    return gather(
        battles.models,
        contexts,
        prompt=battles.prompt,
        a=battles.a,
        b=battles.b,
        outcome=battles.outcome,
        vote_noise=vote_noise,
        foreign=foreign,
    )


def _likeliest(battles: Battles, contexts: FloatArray) -> tuple[float, BattlePosterior]:
    """The noise of voting under which the votes are most likely, and their posterior with it."""
    best: tuple[float, float, BattlePosterior] | None = None
    for noise in _VOTE_NOISES:  # one after another: with a hundred models each takes a quarter of a gigabyte
        posterior = BattlePosterior(pair_sums(battles, contexts, noise))
        evidence = max(posterior.evidence(replace(Hyper(), sigma2=sigma2)) for sigma2 in _REWARD_NOISES)
        if best is None or evidence > best[0]:
            best = evidence, noise, posterior
    assert best is not None
    return best[1:]


def _report(battles: Battles, pairs: PairSums) -> dict[str, object]:
    return {
        "battles": len(battles),
        "ties": int((battles.outcome == 0).sum()),
        "counts": pairs.counts,
        "strengths": {model: round(value, 4) for model, value in pairs.strengths().items()},
    }
