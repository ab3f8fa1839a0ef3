"""What every budget policy must keep, whatever it optimises; run over all of them."""

import numpy as np
import pytest

from worker.core.policies import SUPPORTED, create
from worker.core.policies.base import Policy, Sample, View
from worker.core.verdict import Account, FloatArray
from worker.money import to_nanos, to_usd

ARMS = 4
COSTS = np.array([0.001, 0.004, 0.02, 0.1])
ALL = [True] * ARMS


def sample(seed: int = 0, size: int = 300) -> Sample:
    generator = np.random.default_rng(seed)
    quality = np.array([0.5, 0.6, 0.7, 0.8]) + 0.15 * generator.standard_normal((size, ARMS))
    costs = COSTS * np.exp(0.3 * generator.standard_normal((size, ARMS)))
    return Sample(quality, quality + 0.01, costs)


def planned(name: str) -> Policy:
    policy = create(name, 0.95)
    policy.plan(sample())
    return policy


def view(
    number: int, *, unspent_usd: float | None = 1.0, left: float = 100.0, eligible: FloatArray | None = None
) -> View:
    queries = sample(seed=1)
    account = None if unspent_usd is None else Account(to_nanos(unspent_usd), queries=10, elapsed=0.1)
    mask = ALL if eligible is None else eligible.astype(bool).tolist()
    return View(f"q{number}", queries.score[number].tolist(), queries.costs[number].tolist(), mask, account, left)


@pytest.fixture(params=SUPPORTED)
def policy(request: pytest.FixtureRequest) -> Policy:
    return planned(request.param)


def test_chooses_only_what_is_eligible(policy: Policy) -> None:
    """An arm that is not eligible is never chosen, however good it is."""
    generator = np.random.default_rng(2)
    for number in range(200):
        eligible = generator.random(ARMS) < 0.5
        if not eligible.any():
            continue
        asked = view(number, unspent_usd=float(generator.exponential()), eligible=eligible)
        choice = policy.choose(asked)
        assert eligible[choice.arm]
        assert choice.threshold is None or not choice.threshold[choice.arm]


def test_is_deterministic(policy: Policy) -> None:
    """Two instances with the same plan and the same queries choose the same arms at the same prices."""
    twin = planned(policy.name)
    for number in range(200):
        asked = view(number, unspent_usd=0.01 * number)
        first, second = policy.choose(asked), twin.choose(asked)
        assert (first.arm, first.shadow_price) == (second.arm, second.shadow_price)


def test_leaves_its_input_alone(policy: Policy) -> None:
    """Scores, costs and mask of a query are the same after the choice as before."""
    asked = view(3)
    before = list(asked.score), list(asked.costs), list(asked.eligible)
    policy.choose(asked)
    assert (asked.score, asked.costs, asked.eligible) == before


def spend(policy: Policy, budget_usd: float, count: int = 300) -> float:
    """What one user's window costs when every call costs what was expected."""
    settled, queries = 0, sample(seed=1)
    for number in range(count):
        account = Account(to_nanos(budget_usd), settled, queries=number, elapsed=number / count)
        asked = View(
            f"q{number}", queries.score[number].tolist(), queries.costs[number].tolist(), ALL, account,
            float(count - number), "u",
        )  # fmt: skip
        settled += to_nanos(float(asked.costs[policy.choose(asked).arm]))
    return to_usd(settled)


@pytest.mark.parametrize("name", SUPPORTED)
def test_spends_no_less_with_more_money(name: str) -> None:
    """Over the same window a larger budget never leads to noticeably less spending."""
    spent = [spend(planned(name), usd) for usd in (0.4, 1.0, 3.0, 10.0, 100.0)]
    assert np.all(np.diff(spent) >= -0.02 * np.array(spent[:-1])), spent


@pytest.mark.parametrize("name", ["pacing", "zcl"])
def test_a_budget_is_kept_and_used(name: str) -> None:
    """The policies that pace spend most of a window's budget and, costs being as expected, hardly more."""
    for budget in (1.0, 3.0, 10.0):
        assert 0.75 * budget <= spend(planned(name), budget) <= 1.05 * budget


def test_serves_a_user_without_a_limit(policy: Policy) -> None:
    """No account means no budget: an arm is chosen all the same."""
    assert 0 <= policy.choose(view(5, unspent_usd=None)).arm < ARMS


def test_serves_a_user_whose_money_is_overdrawn(policy: Policy) -> None:
    """Below zero only eligibility decides: the policy still names an eligible arm."""
    only_cheapest = np.array([True, False, False, False])
    assert policy.choose(view(5, unspent_usd=-1.0, eligible=only_cheapest)).arm == 0


def test_has_the_name_it_is_asked_by(policy: Policy) -> None:
    """The name in the decisions is the name in the settings."""
    assert policy.name in SUPPORTED
    assert create(policy.name, 0.95).name == policy.name


def test_an_unknown_name_is_refused() -> None:
    """The error lists the names that exist."""
    with pytest.raises(ValueError, match="pacing"):
        create("fastest", 0.95)


class TestPacing:
    """What only `pacing` promises."""

    def test_takes_the_best_score_when_money_is_plenty(self) -> None:
        """With more money than the best arms cost the price of a dollar is zero."""
        for number in range(50):
            asked = view(number, unspent_usd=1e6)
            choice = planned("pacing").choose(asked)
            assert choice.shadow_price == 0
            assert choice.arm == int(np.argmax(asked.score))

    def test_takes_the_cheapest_when_money_is_gone(self) -> None:
        """With nothing left to spend the price is so high that cost alone decides."""
        asked = view(7, unspent_usd=0.0)
        assert planned("pacing").choose(asked).arm == int(np.argmin(asked.costs))

    def test_meets_the_affordable_mean_cost(self) -> None:
        """On the queries that it planned with, the mean cost is the affordable one."""
        policy, queries = planned("pacing"), sample()
        for affordable in (0.005, 0.02, 0.05):
            account = Account(to_nanos(100 * affordable))
            rows = zip(queries.score.tolist(), queries.costs.tolist(), strict=True)
            views = [View(f"q{n}", score, costs, ALL, account, 100.0) for n, (score, costs) in enumerate(rows)]
            mean = np.mean([v.costs[policy.choose(v).arm] for v in views])
            assert mean == pytest.approx(affordable, rel=0.05)

    def test_meets_it_even_where_all_queries_look_the_same(self) -> None:
        """Two neighbouring prices are mixed, so constant predictions still spend what they should."""
        policy = create("pacing", 0.95)
        flat = Sample(np.tile([0.5, 0.9], (300, 1)), np.tile([0.5, 0.9], (300, 1)), np.tile([0.001, 0.1], (300, 1)))
        policy.plan(flat)
        account = Account(to_nanos(3.0))
        views = [View(f"q{n}", [0.5, 0.9], [0.001, 0.1], [True, True], account, 100.0) for n in range(2_000)]
        mean = np.mean([v.costs[policy.choose(v).arm] for v in views])
        assert mean == pytest.approx(0.03, rel=0.1)

    def test_open_decisions_count_as_spent(self) -> None:
        """What open decisions are expected to cost raises the price for the next."""
        policy = planned("pacing")
        idle = View("q", sample().score[0].tolist(), COSTS.tolist(), ALL, Account(to_nanos(2.0)), 100.0)
        busy_account = Account(to_nanos(2.0), expected=to_nanos(1.5))
        busy = View("q", sample().score[0].tolist(), COSTS.tolist(), ALL, busy_account, 100.0)
        cheap, dear = policy.choose(idle).shadow_price, policy.choose(busy).shadow_price
        assert cheap is not None
        assert dear is not None
        assert dear > cheap


class TestZcl:
    """What only `zcl` promises."""

    def test_a_fresh_bin_takes_everything(self) -> None:
        """With an empty bin the threshold is below every usual ratio: the best score wins."""
        policy = planned("zcl")
        asked = view(3, unspent_usd=1_000.0)
        assert policy.choose(asked).arm == int(np.argmax(asked.score))

    def test_a_full_bin_falls_back_on_the_cheapest(self) -> None:
        """When the bin's budget is gone only extraordinary ratios pass, else the cheapest answers."""
        policy = planned("zcl")
        asked = view(3, unspent_usd=0.0)
        choice = policy.choose(asked)
        assert choice.arm == int(np.argmin(asked.costs))
        assert choice.threshold is not None
        assert sum(choice.threshold) == ARMS - 1

    def test_users_have_bins_of_their_own(self) -> None:
        """What one user spends does not raise another's threshold."""
        crowded, alone = planned("zcl"), planned("zcl")
        for number in range(40):
            crowded.choose(view(number, unspent_usd=1.0)._replace(user_id="spender"))
        asked = view(50, unspent_usd=1.0)._replace(user_id="other")
        assert crowded.choose(asked).arm == alone.choose(asked).arm


class TestFloor:
    """What only `floor` promises."""

    @pytest.mark.parametrize("share", [0.8, 0.9, 0.97])
    def test_keeps_the_share_and_little_more(self, share: float) -> None:
        """Expected quality is the promised share of the best arm's, less than two points above it."""
        policy, queries = create("floor", share), sample(size=3_000)
        policy.plan(queries)
        rows = np.arange(3_000)
        pairs = zip(queries.score.tolist(), queries.costs.tolist(), strict=True)
        arms = [policy.choose(View(f"q{n}", score, costs, ALL)).arm for n, (score, costs) in enumerate(pairs)]
        kept = queries.mean[rows, arms].mean() / queries.mean.mean(axis=0).max()
        assert share <= kept <= share + 0.02
        assert queries.costs[rows, arms].mean() < queries.costs.mean(axis=0).max()

    def test_a_lower_floor_costs_less(self) -> None:
        """Promising less lets the price rise."""
        prices = []
        for share in (0.99, 0.9, 0.8):
            policy = create("floor", share)
            policy.plan(sample())
            prices.append(policy.choose(view(0)).shadow_price)
        assert prices == sorted(prices)
        assert prices[0] < prices[-1]
