"""Vitals: what is measured when somebody asks, instead of being counted as it happens."""

from __future__ import annotations

from dataclasses import dataclass, field


def share_of(limit: int, used: int) -> float:
    """What is used, as a share of the limit; a limit of 0 is used up."""
    return used / limit if limit > 0 else 1.0


@dataclass(frozen=True, slots=True)
class UserBudget:
    """One user's money in the current window, in nano-dollars."""

    user_id: str
    limit: int
    settled: int
    reserved: int

    @property
    def share(self) -> float:
        """Settled and reserved, as a share of the limit."""
        return share_of(self.limit, self.settled + self.reserved)


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """The limited users that spent something in the current window, summed; money in nano-dollars.

    `elapsed` is the share of the window that has passed, times are seconds since the epoch. `fullest`
    are the users with the highest share, highest first.
    """

    window_start: float
    window_s: float
    elapsed: float
    users: int = 0
    over_80: int = 0
    exhausted: int = 0
    limit: int = 0
    settled: int = 0
    reserved: int = 0
    fullest: tuple[UserBudget, ...] = ()


@dataclass(frozen=True, slots=True)
class ArmVitals:
    """One model of the catalog; expectations are means over recent queries, None where it is not enabled."""

    model: str
    enabled: bool
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    request_usd: float
    expected_reward: float | None = None
    uncertainty: float | None = None
    expected_cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look at a worker; `recovery_remaining` counts changelog records, `replica_lag` records not yet applied."""

    budgets: BudgetUse
    arms: tuple[ArmVitals, ...] = ()
    tables: dict[str, int] = field(default_factory=dict)
    recovery_remaining: int = 0
    replica_lag: int = 0
    replica_shards: int = 0


@dataclass(frozen=True, slots=True)
class About:
    """What a worker is, as long as it runs; `started_at` in seconds since the epoch."""

    worker_id: str
    group: str
    version: str
    policy: str
    preset: str
    reserve: str
    fingerprint: str
    started_at: float
