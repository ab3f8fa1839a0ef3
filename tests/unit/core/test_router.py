"""The router: what a verdict says, what it learned, what changes at run time."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from worker.core.arms import Arm
from worker.core.learn import Lesson, learn
from worker.core.paper import as_published, teaches
from worker.core.prior import Prior
from worker.core.projection import Projection
from worker.core.router import Router, RouterOptions
from worker.core.statistics import ArmStatistics
from worker.core.verdict import Account, FloatArray, Request, Verdict
from worker.money import to_nanos

D = 4
ARMS = (
    Arm("cheap", 0.1, 0.1, max_output_tokens=500),
    Arm("middle", 1.0, 1.0, max_output_tokens=500),
    Arm("dear", 10.0, 10.0, max_output_tokens=500, tags=frozenset({"eu"})),
)
RICH = Account(to_nanos(1_000.0), elapsed=0.5)


def contexts(count: int, seed: int = 0) -> FloatArray:
    values = np.random.default_rng(seed).standard_normal((count, D))
    values[:, -1] = 1.0
    return values


def scored() -> dict[str, ArmStatistics]:
    """Sums in which dear arms are better, after 100 rewards each."""
    sums = {}
    for arm, quality in zip(ARMS, (0.4, 0.6, 0.9), strict=True):
        statistics = ArmStatistics.zeros(D)
        for x in contexts(100):
            learn(statistics, Lesson(x, reward=quality, output_tokens=100))
        sums[arm.model] = statistics
    return sums


def prior(*, known: bool = True) -> Prior:
    projection = Projection("test", np.zeros(3), np.eye(3))
    if not known:
        return Prior("texts", projection, contexts(50))
    return Prior("table", projection, contexts(50), tuple(a.model for a in ARMS), scored())


def router(*, known: bool = True, arms: tuple[Arm, ...] = ARMS, **options: object) -> Router:
    made = Router(prior(known=known), RouterOptions(**options))  # type: ignore[arg-type]
    made.set_arms(arms)
    return made


def request(number: int = 0, **fields: object) -> Request:
    return Request(f"q{number}", contexts(number + 1)[number], **{"input_tokens": 100, **fields})  # type: ignore[arg-type]


def excluded(verdict: Verdict) -> dict[str, str | None]:
    return {candidate.model: candidate.excluded for candidate in verdict.candidates}


class TestVerdict:
    """What a decision says."""

    def test_routes_to_the_best_when_money_is_plenty(self) -> None:
        """A rich user gets the arm that the prior's data make best, at a propensity of one."""
        verdict = router().decide(request(), RICH)
        assert (verdict.reason, verdict.model, verdict.propensity) == (None, "dear", 1.0)
        assert verdict.shadow_price == 0
        assert verdict.expected_reward == pytest.approx(0.9, abs=0.05)

    def test_every_enabled_arm_is_a_candidate(self) -> None:
        """Candidates are the enabled arms in order; the chosen one repeats its figures."""
        arms = (*ARMS, Arm("off", enabled=False))
        verdict = router(arms=arms).decide(request(), RICH)
        assert [c.model for c in verdict.candidates] == ["cheap", "middle", "dear"]
        mine = next(c for c in verdict.candidates if c.model == verdict.model)
        assert mine.expected_reward == verdict.expected_reward
        assert mine.uncertainty == verdict.uncertainty
        assert mine.estimated_cost_nanos == verdict.estimated_cost_nanos
        assert mine.excluded is None

    def test_detail_chosen_leaves_candidates_out(self) -> None:
        """The short form decides the same and lists nothing."""
        full, short = router().decide(request(), RICH), router(detail="chosen").decide(request(), RICH)
        assert short == full._replace(candidates=())

    def test_expected_reward_has_no_bonus(self) -> None:
        """Exploration changes choices, not what is reported."""
        calm, keen = router(alpha=0.0).decide(request(), RICH), router(alpha=50.0).decide(request(), RICH)
        assert {c.model: c.expected_reward for c in calm.candidates} == {
            c.model: c.expected_reward for c in keen.candidates
        }

    def test_leaves_the_request_alone(self) -> None:
        """The context of a request is not changed."""
        asked = request()
        before = copy.deepcopy(asked.context)
        router().decide(asked, RICH)
        np.testing.assert_array_equal(asked.context, before)

    def test_a_user_without_limit_has_no_price(self) -> None:
        """No account, or one without a limit: routed, as if money were plenty."""
        for account in (None, Account(None)):
            assert router().decide(request(), account).model == "dear"

    def test_version_names_projection_and_observations(self) -> None:
        """The version changes with what was learned."""
        made = router()
        assert made.version == f"{prior().fingerprint}:0"
        made.refresh(scored())
        assert made.version == f"{prior().fingerprint}:300"


class TestRejections:
    """Reasons, and what the fallback does."""

    def test_no_model(self) -> None:
        """No arms at all, none enabled, none allowed, none with the tag."""
        assert router(arms=()).decide(request(), RICH).reason == "no_model"
        assert router(arms=(Arm("off", enabled=False),)).decide(request(), RICH).reason == "no_model"
        assert router().decide(request(models=frozenset({"gone"})), RICH).reason == "no_model"
        verdict = router().decide(request(requires=frozenset({"us"})), RICH)
        assert (verdict.reason, verdict.model, verdict.propensity) == ("no_model", None, None)
        assert set(excluded(verdict).values()) == {"missing_tag"}

    def test_budget_exhausted(self) -> None:
        """Nothing fits into what is left: rejected, and every candidate says why."""
        spent = Account(to_nanos(1.0), settled=to_nanos(0.4), reserved=to_nanos(0.6))
        verdict = router().decide(request(), spent)
        assert verdict.reason == "budget_exhausted"
        assert set(excluded(verdict).values()) == {"budget"}

    def test_fallback_cheapest_overdraws(self) -> None:
        """With the other fallback the cheapest arm that only the budget excludes is routed to."""
        spent = Account(to_nanos(1.0), settled=to_nanos(1.0))
        verdict = router(fallback="cheapest").decide(request(requires=frozenset({"eu"})), spent)
        assert (verdict.model, verdict.reason, verdict.propensity) == ("dear", None, 1.0)
        assert excluded(verdict) == {"cheap": "missing_tag", "middle": "missing_tag", "dear": None}

    def test_worst_case_never_overdraws(self) -> None:
        """The guarantee is stronger than the fallback setting."""
        spent = Account(to_nanos(1.0), settled=to_nanos(1.0))
        made = router(fallback="cheapest", reserve="worst_case")
        assert made.decide(request(), spent).reason == "budget_exhausted"

    def test_max_cost(self) -> None:
        """A caller's own limit excludes arms that reserve more, and rejects when all do."""
        verdict = router().decide(request(max_cost_nanos=to_nanos(1e-4)), RICH)
        assert excluded(verdict)["dear"] == "max_cost"
        assert verdict.model in {"cheap", "middle"}
        assert router().decide(request(max_cost_nanos=0), RICH).reason == "max_cost"

    def test_unbounded(self) -> None:
        """In worst_case an arm without a bound is out, unless the user has no limit."""
        arms = (Arm("open", 1.0, 1.0), Arm("closed", 1.0, 1.0, max_output_tokens=10))
        made = router(arms=arms, reserve="worst_case")
        assert excluded(made.decide(request(), RICH)) == {"open": "unbounded", "closed": None}
        assert made.decide(request(input_tokens=None), RICH).reason == "unbounded"
        free = made.decide(request(input_tokens=None), None)
        assert free.reason is None
        assert set(excluded(free).values()) == {None}
        assert free.reservation_nanos is not None
        assert free.reservation_nanos > 0


class TestReservations:
    """What a decision sets aside."""

    def test_modes_reserve_more_and_more(self) -> None:
        """The expected cost is below its quantile, which is below the bound."""
        reserved = []
        for mode in ("expected", "quantile", "worst_case"):
            verdict = router(reserve=mode).decide(request(models=frozenset({"middle"})), RICH)
            assert verdict.reservation_nanos is not None
            reserved.append(verdict.reservation_nanos)
        assert reserved == sorted(reserved)
        assert len(set(reserved)) == 3
        assert reserved[-1] == to_nanos(ARMS[1].price_usd(100, 500))

    def test_bounds_of_a_table_replace_the_price_list(self) -> None:
        """Where a table says the most that a call can cost, that is what is reserved."""
        bounds = np.array([5, 6, 7])
        verdict = router(reserve="worst_case").decide(request(models=frozenset({"middle"})), RICH, bounds)
        assert verdict.reservation_nanos == 6
        assert bounds.tolist() == [5, 6, 7]

    def test_estimates_without_a_count(self) -> None:
        """Input tokens come from the bytes of the text, else from what is usual."""
        made = router()
        counted = made.decide(request(input_tokens=50), RICH)
        measured = made.decide(request(input_tokens=None, text_bytes=200), RICH)
        assert [c.estimated_cost_nanos for c in counted.candidates] == [
            c.estimated_cost_nanos for c in measured.candidates
        ]
        assert made.decide(request(input_tokens=None), RICH).model is not None


class TestExploration:
    """Propensities and forced pulls."""

    def test_explores_at_its_rate_with_true_propensities(self) -> None:
        """At rate .3 over 3 eligible arms others than the greedy get a tenth each, and say so."""
        made = router(exploration_rate=0.3)
        verdicts = [made.decide(request(n), RICH) for n in range(2_000)]
        greedy = [v for v in verdicts if v.model == "dear"]
        assert len(greedy) / len(verdicts) == pytest.approx(0.8, abs=0.03)
        assert [v.propensity for v in greedy] == pytest.approx([0.8] * len(greedy))
        others = [v.propensity for v in verdicts if v.model != "dear"]
        assert others == pytest.approx([0.1] * len(others))

    def test_explores_the_same_on_replay(self) -> None:
        """The draw belongs to the query: another process makes the same one."""
        first, second = router(exploration_rate=0.5), router(exploration_rate=0.5)
        assert [first.decide(request(n), RICH) for n in range(50)] == [
            second.decide(request(n), RICH) for n in range(50)
        ]

    def test_explores_only_what_is_eligible(self) -> None:
        """An excluded arm is never drawn, and one eligible arm alone has propensity one."""
        made = router(exploration_rate=1.0)
        verdicts = [made.decide(request(n, models=frozenset({"cheap"})), RICH) for n in range(30)]
        assert {(v.model, v.propensity) for v in verdicts} == {("cheap", 1.0)}

    def test_unknown_arms_are_pulled_ten_times_each(self) -> None:
        """Without a prior every fifth decision goes to the arm with the fewest pulls, until each has ten."""
        made = router(known=False, alpha=0.0, policy="unlimited")
        first = [made.decide(request(n), RICH).model for n in range(400)]
        assert min(first.count(arm.model) for arm in ARMS) >= 10
        assert first[4] != first[3] or first[9] != first[8]

    def test_a_worker_of_many_takes_the_others_to_be_like_itself(self) -> None:
        """At a quarter of the traffic one open decision narrows the uncertainty like four."""
        ask = request(models=frozenset({"cheap"}))
        one_of_four, alone = router(known=False), router(known=False)
        one_of_four.serve(0.25)
        one_of_four.decide(ask, RICH)
        for _ in range(4):
            alone.decide(ask, RICH)
        quarter, whole = (made.decide(ask, RICH).uncertainty for made in (one_of_four, alone))
        assert quarter == pytest.approx(whole)

    def test_known_arms_are_not_forced(self) -> None:
        """With a table's scores the best arm gets everything."""
        made = router(alpha=0.0, policy="unlimited")
        assert {made.decide(request(n), RICH).model for n in range(60)} == {"dear"}

    def test_forced_pulls_respect_the_budget(self) -> None:
        """An arm that the money excludes is not forced."""
        made = router(known=False, policy="unlimited")
        poor = Account(to_nanos(0.0003))
        chosen = {made.decide(request(n), poor).model for n in range(100)}
        assert chosen == {"cheap"}

    def test_an_arm_that_is_not_eligible_is_never_forced(self) -> None:
        """Not even for a user without limit, whose budget can spare anything."""
        made = router(known=False, policy="unlimited")
        chosen = {made.decide(request(n, models=frozenset({"cheap", "dear"})), None).model for n in range(100)}
        assert chosen == {"cheap", "dear"}

    def test_forced_pulls_leave_the_cheapest_arm_affordable(self) -> None:
        """A pull may take a tenth of what the cheapest arm for the rest of the window leaves over, no more."""
        made = router(known=False, policy="unlimited", alpha=0.0)
        made.refresh({"cheap": scored()["dear"]})
        call = made.decide(request(), RICH).estimated_cost_nanos or 0
        tight, ample = (Account(round(times * 1_000 * call), left=1_000.0) for times in (2.5, 6.0))
        assert {made.decide(request(n), tight).model for n in range(100)} == {"cheap", "middle"}
        assert "dear" in {made.decide(request(n), ample).model for n in range(100)}

    def test_a_frozen_router_neither_forces_nor_bonuses(self) -> None:
        """After freeze, what is known decides alone."""
        made = router(known=False, alpha=50.0, policy="unlimited")
        made.refresh(scored())
        made.freeze()
        assert {made.decide(request(n), RICH).model for n in range(60)} == {"dear"}


class TestCatalog:
    """Arms that change at run time."""

    def test_a_price_change_acts_at_once(self) -> None:
        """The next decision after a new price list already counts with it."""
        made = router()
        before = made.decide(request(), RICH)
        made.set_arms(tuple(replace(a, input_usd_per_mtok=2 * a.input_usd_per_mtok,
                                    output_usd_per_mtok=2 * a.output_usd_per_mtok) for a in ARMS))  # fmt: skip
        after = made.decide(request(), RICH)
        for old, new in zip(before.candidates, after.candidates, strict=True):
            assert new.estimated_cost_nanos == pytest.approx(2 * old.estimated_cost_nanos, rel=1e-3)

    def test_a_new_arm_starts_uncertain_near_the_others(self) -> None:
        """An arm that the prior does not know scores like the mean of the others, with a wide deviation."""
        verdict = router(arms=(*ARMS, Arm("new", 1.0, 1.0))).decide(request(), RICH)
        by_model = {c.model: c for c in verdict.candidates}
        assert 0.4 < by_model["new"].expected_reward < 0.9
        assert by_model["new"].uncertainty > 3 * by_model["dear"].uncertainty

    def test_an_arm_that_returns_knows_what_it_knew(self) -> None:
        """Removing and adding an arm loses nothing that the sums hold."""
        made = router(known=False, open_decisions=False)
        made.refresh(scored())
        before = made.decide(request(), RICH).candidates
        made.set_arms(ARMS[:2])
        assert len(made.decide(request(), RICH).candidates) == 2
        made.set_arms(ARMS)
        assert made.decide(request(), RICH).candidates == before


class TestLearning:
    """Sums from shards, and outcomes one by one."""

    def test_refresh_adds_the_prior(self) -> None:
        """The caller's totals are feedback alone; with none of it the prior still speaks."""
        made = router()
        before = made.decide(request(), RICH).candidates
        made.refresh({})
        assert made.decide(request(), RICH).candidates == before

    def test_observing_equals_refreshing(self) -> None:
        """Rank-one updates end where a solve from the same sums ends."""
        online, solved = router(known=False), router(known=False)
        sums = {arm.model: ArmStatistics.zeros(D) for arm in ARMS}
        for number, x in enumerate(contexts(60, seed=3)):
            model, reward = ARMS[number % 3].model, float(number % 2)
            online.observe(model, x, reward)
            learn(sums[model], Lesson(x, reward=reward))
        solved.refresh(sums)
        one, other = online.decide(request(), RICH).candidates, solved.decide(request(), RICH).candidates
        for mine, theirs in zip(one, other, strict=True):
            assert mine.expected_reward == pytest.approx(theirs.expected_reward, abs=1e-9)
            assert mine.uncertainty == pytest.approx(theirs.uncertainty, abs=1e-9)

    def test_feedback_changes_the_choice(self) -> None:
        """An arm that turns out bad loses its place."""
        made = router(alpha=0.0)
        for x in contexts(300, seed=4):
            made.observe("dear", x, 0.0)
        assert made.decide(request(), RICH).model == "middle"


class TestOpenDecisions:
    """Decisions whose reward is still to come."""

    def test_narrow_the_deviation_and_leave_the_mean(self) -> None:
        """Without any reward, what was sent to an arm makes it less uncertain and no better."""
        made = router(known=False, policy="unlimited")
        first = made.decide(request(), RICH)
        verdicts = [made.decide(request()._replace(query_id=f"again {n}"), RICH) for n in range(30)]
        chosen = verdicts[0].model
        before = next(c for c in first.candidates if c.model == chosen)
        after = next(c for c in verdicts[-1].candidates if c.model == chosen)
        assert after.uncertainty < 0.5 * before.uncertainty
        assert after.expected_reward == before.expected_reward

    def test_survive_a_refresh_until_their_reward_comes(self) -> None:
        """A refresh without new rewards keeps them open; once all came only the sums count."""
        made, solved = router(known=False), router(known=False, open_decisions=False)
        made.refresh({arm.model: ArmStatistics.zeros(D) for arm in ARMS})
        sent = [(made.decide(request(n), RICH).model, request(n).context) for n in range(20)]
        sums = {arm.model: ArmStatistics.zeros(D) for arm in ARMS}
        made.refresh(sums)
        unseen = solved.decide(request(), RICH).candidates
        still_open = made.decide(request(0, models=frozenset({"none"})), RICH).candidates
        assert all(o.uncertainty < u.uncertainty for o, u in zip(still_open, unseen, strict=True))
        for model, context in sent:
            assert model is not None
            learn(sums[model], Lesson(context, reward=0.5))
        made.refresh(sums)
        solved.refresh(sums)
        ask = request(0, models=frozenset({"none"}))
        for mine, theirs in zip(made.decide(ask, RICH).candidates, solved.decide(ask, RICH).candidates, strict=True):
            assert mine.uncertainty == pytest.approx(theirs.uncertainty, abs=1e-9)

    def test_expire_when_their_reward_is_too_late(self) -> None:
        """After ten minutes a decision counts as never rewarded, and later ones count for less."""
        made = router(known=False)
        for n in range(50):
            made.decide(request(n)._replace(at_s=float(n)), RICH)
        early = made.decide(request(0, models=frozenset({"none"}))._replace(at_s=50.0), RICH).candidates
        for arm in ARMS:
            made.decide(request(0, models=frozenset({arm.model}))._replace(at_s=5_000.0), RICH)
        made.refresh({})
        late = made.decide(request(0, models=frozenset({"none"}))._replace(at_s=5_000.0), RICH).candidates
        assert all(after.uncertainty > before.uncertainty for after, before in zip(late, early, strict=True))


class TestPaper:
    """Preset `paper`: two buckets of traffic."""

    def paper(self, share: float) -> Router:
        made = Router(as_published(prior(known=False)), RouterOptions("zcl", rewards="paper", learning_share=share))
        made.set_arms(ARMS)
        return made

    def test_the_learning_bucket_explores(self) -> None:
        """Queries of the bucket follow LinUCB with its bonus, whatever an arm costs."""
        made = self.paper(1.0)
        chosen = set()
        for n in range(60):
            asked = request(n)._replace(context=request(n).context[:3])
            model = made.decide(asked, RICH).model
            assert model is not None
            chosen.add(model)
            made.observe(model, asked.context, 0.2)
        assert chosen == {"cheap", "middle", "dear"}

    def test_the_learning_bucket_stays_within_the_limit(self) -> None:
        """Learning has no price on money, but what the user cannot pay is not eligible, and it ends with the money."""
        made = self.paper(1.0)
        asked = request()._replace(context=request().context[:3])
        prices = {told.model: told.estimated_cost_nanos for told in made.decide(asked, RICH).candidates}
        poor = Account(limit=2 * prices["middle"], left=100.0)
        assert excluded(made.decide(asked, poor)) == {"cheap": None, "middle": None, "dear": "budget"}
        gone = made.decide(asked, poor._replace(settled=2 * prices["middle"]))
        assert (gone.model, gone.reason) == (None, "budget_exhausted")

    def test_the_deployment_bucket_exploits(self) -> None:
        """Other queries go by the mean alone: with nothing learned the first arm stays first."""
        made = self.paper(1e-12)
        asked = [request(n)._replace(context=request(n).context[:3]) for n in range(20)]
        assert {made.decide(a, None).model for a in asked} == {"cheap"}

    def test_buckets_belong_to_the_query(self) -> None:
        """The share is kept, and the same query is in the same bucket for whoever asks."""
        inside = [teaches(f"q{n}", 0.1) for n in range(5_000)]
        assert np.mean(inside) == pytest.approx(0.1, abs=0.015)
        assert inside == [teaches(f"q{n}", 0.1) for n in range(5_000)]


class TestOutlook:
    """How the arms look on recent queries, for people."""

    def test_every_enabled_arm_has_one(self) -> None:
        """Mean reward, deviation and cost; better and dearer arms look so."""
        found = router().outlook()
        assert list(found) == [arm.model for arm in ARMS]
        rewards, deviations, costs = zip(*found.values(), strict=True)
        assert sorted(rewards) == list(rewards)
        assert sorted(costs) == list(costs)
        assert min(deviations) > 0

    def test_looking_changes_nothing(self) -> None:
        """The same decisions follow, looked at or not."""
        seen, unseen = router(), router()
        for number in range(20):
            seen.outlook()
            assert seen.decide(request(number), RICH) == unseen.decide(request(number), RICH)

    def test_nothing_to_look_at(self) -> None:
        """Without arms there is no outlook."""
        assert router(arms=()).outlook() == {}
