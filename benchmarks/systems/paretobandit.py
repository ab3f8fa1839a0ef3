"""ParetoBandit (arXiv 2604.00136): disjoint LinUCB and an online primal-dual pacer of the mean cost.

Set up as in its own demo: precomputed features, the adaptive pacer, its published best
hyper-parameters for a warm and for a cold start. It prices models by list price; where a
table has only dollars per call, a model's list price is its mean cost at 1,000 tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from pareto_bandit.budget_pacer import BudgetPacer, PacingMode
from pareto_bandit.config import BEST_K3_HPARAMS, BEST_K3_TABULA_RASA_HPARAMS
from pareto_bandit.feature_service import FeatureService
from pareto_bandit.router import BanditRouter

from worker.core.statistics import Moments
from worker.core.verdict import FloatArray

_CALLS_PER_MTOK = 1000.0  # calls of 1,000 tokens


class ParetoBandit:
    """Decides and learns one by one.

    Args:
        mean_costs: USD of a call by arm, shape (K,); what its registry gets as prices.
        target_usd: mean cost of a call that the pacer aims at.
        dimension: d of the context, whose last coordinate is the constant 1.
        sums: reward sums of each arm to start from; None: cold.
        seed: of its random tie-breaks.
    """

    def __init__(
        self,
        mean_costs: FloatArray,
        target_usd: float,
        dimension: int,
        sums: Sequence[Moments] | None = None,
        seed: int = 0,
    ) -> None:
        logging.getLogger("pareto_bandit").setLevel(logging.ERROR)
        self._models = [f"arm-{k}" for k in range(len(mean_costs))]
        self._number = {model: k for k, model in enumerate(self._models)}
        best = BEST_K3_TABULA_RASA_HPARAMS if sums is None else BEST_K3_HPARAMS
        self._router = BanditRouter(
            {model: _prices(float(cost)) for model, cost in zip(self._models, mean_costs, strict=True)},
            feature_service=FeatureService.for_precomputed(dimension),
            alpha=best["alpha"],
            forgetting_factor=best["forgetting_factor"],
            bandit_seed=seed,
            cost_penalty=0.0,
            budget_pacer=BudgetPacer(target_avg_spend_usd=target_usd, mode=PacingMode.ADAPTIVE),
        )
        if sums is not None:
            self._warm(sums, best["prior_n_effective"])

    def _warm(self, sums: Sequence[Moments], effective: float) -> None:
        """As its loader of prior files does: sums scaled to an effective count, the ridge added at the same mean."""
        bandit = self._router.bandit
        ridge = bandit.init_lambda * np.eye(bandit.dim)
        for model, moments in zip(self._models, sums, strict=True):
            A = ridge + moments.A
            scale = effective / float(A[-1, -1])
            mean = np.linalg.solve(A, moments.b)
            bandit.A[model] = A * scale + ridge
            bandit.b[model] = moments.b * scale + bandit.init_lambda * mean
        bandit.refresh_inverse_cache()

    def decide(self, x: FloatArray) -> int:
        """The number of an arm for a context of shape (d,)."""
        model, self._log = self._router.route(x, input_tokens=100)
        return self._number[model]

    def learn(self, arm: int, x: FloatArray, reward: float, cost_usd: float) -> None:  # noqa: ARG002 - the log has them
        """Reward and cost of the decision just made."""
        self._log.cost_usd = cost_usd
        self._router.process_feedback(self._log.request_id, reward)


def _prices(usd: float) -> dict[str, float]:
    return {"input_cost_per_m": usd * _CALLS_PER_MTOK, "output_cost_per_m": usd * _CALLS_PER_MTOK}
