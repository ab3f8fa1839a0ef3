"""The vitals of a worker: budgets from the agents' own state, arms as the router sees them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.stream.agents import MIDNIGHT, Agents
from tests.unit.stream.doubles import settings
from worker.core.ledger import Spend
from worker.core.prior import default_prior
from worker.stream import vitals
from worker.stream.batch import Journal
from worker.stream.state import SpendKey, State
from worker.stream.vitals import VitalSigns


class Ward:
    """A worker's parts around real agents, and a store whose content the test writes."""

    def __init__(self) -> None:
        self.stored: dict[SpendKey, Spend] = {}
        self.journal = Journal(State(lambda *_: None, lambda *_: None, lambda *_: None))
        self.agents = Agents(settings(embedding_dim=384), self.journal, default_prior())
        self.tenure = SimpleNamespace(journal=self.journal, began=[])
        worker: Any = SimpleNamespace(
            tenure=self.tenure,
            sweeper=SimpleNamespace(users_of=lambda window: {key: 0 for key in self.stored if key.window == window}),
            tables=SimpleNamespace(
                load_spend=lambda _, key: self.stored.get(key), sizes=lambda: {"spend": len(self.stored)}
            ),
            budgets=self.agents.budgets, catalog=self.agents.catalog, router=self.agents.router,
            replica=SimpleNamespace(follower=SimpleNamespace(lag=2), shards=3), recovery_remaining=4,
        )  # fmt: skip
        self.signs = VitalSigns(worker, settings())
        self.agents.model("small")
        self.agents.budget("*", 1.0)


@pytest.fixture
def ward(monkeypatch: pytest.MonkeyPatch) -> Ward:
    """On the agents' first day, six hours in."""
    monkeypatch.setattr(vitals.time, "time", lambda: float(MIDNIGHT + 21_600))
    return Ward()


async def test_spending_is_seen_without_a_word_from_the_agents(ward: Ward) -> None:
    """A refresh takes over what was written since the last one."""
    ward.agents.query("q", "u")
    ward.signs._refresh_budgets()
    budgets = ward.signs.look().budgets
    assert (budgets.users, budgets.settled, budgets.reserved) == (1, 0, ward.agents.spend().reserved)
    ward.agents.deliver()
    ward.agents.say("q", "u", cost_usd=0.9)
    ward.signs._refresh_budgets()
    budgets = ward.signs.look().budgets
    assert (budgets.users, budgets.settled, budgets.reserved) == (1, 900_000_000, 0)
    assert (budgets.over_80, budgets.elapsed) == (1, 0.25)


async def test_another_day_s_spending_is_not_today_s(ward: Ward) -> None:
    """Late money of an earlier window does not count."""
    ward.journal.put_spend(0, SpendKey("u", MIDNIGHT - 86_400), Spend(settled=5))
    ward.signs._refresh_budgets()
    assert ward.signs.look().budgets.users == 0


async def test_a_new_assignment_begins_with_what_is_stored(ward: Ward) -> None:
    """Users of the partitions before are forgotten; those of the new ones come from the store, newer writes first."""
    ward.agents.query("q", "before")
    ward.signs._refresh_budgets()
    ward.stored = {SpendKey(user, MIDNIGHT): Spend(settled=100) for user in ("quiet", "busy")}
    ward.journal.state = State(lambda *_: None, lambda *_: None, lambda *_: None)
    for call in ward.tenure.began:
        call()
    ward.journal.put_spend(0, SpendKey("busy", MIDNIGHT), Spend(settled=300))
    ward.signs._refresh_budgets()
    budgets = ward.signs.look().budgets
    assert [(user.user_id, user.settled) for user in budgets.fullest] == [("busy", 300), ("quiet", 100)]


async def test_arms_as_the_router_sees_them(ward: Ward) -> None:
    """Every model with its prices; only an enabled one has an outlook."""
    ward.agents.model("off", enabled=False)
    off, small = ward.signs._look_at_arms()
    assert (off.model, off.enabled, off.expected_reward) == ("off", False, None)
    assert (small.model, small.enabled, small.output_usd_per_mtok) == ("small", True, 10.0)
    assert small.expected_reward is not None
    assert small.expected_cost_usd is not None
    assert small.expected_cost_usd > 0


async def test_a_look_reads_the_other_parts(ward: Ward) -> None:
    """Tables, recovery and replica."""
    found = ward.signs.look()
    assert (found.tables, found.recovery_remaining) == ({"spend": 0}, 4)
    assert (found.replica_lag, found.replica_shards) == (2, 3)
