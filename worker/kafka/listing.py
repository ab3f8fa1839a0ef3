"""The joins behind `pilot models list` and `pilot budgets list`: control topics with what is in the changelogs."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from worker.core.arms import Arm
from worker.core.ledger import Spend, window_start
from worker.core.statistics import ArmStatistics
from worker.events import EVERYONE_ELSE
from worker.kafka.compacted import read_to_end
from worker.kafka.control import Budgets, Catalog
from worker.kafka.learned import read_statistics
from worker.kafka.spending import read_spend
from worker.money import optional_usd, to_usd
from worker.settings import Settings

Row = dict[str, Any]


async def models_with_learning(settings: Settings) -> list[Row]:
    """One row a model of the models topic, by name; records that a worker would skip are skipped here too.

    Raises:
        OperationFailed: no broker, or a topic is missing.
    """
    catalog = Catalog()
    _, learned = await asyncio.gather(
        read_to_end(settings, settings.topic("models"), catalog.apply), read_statistics(settings)
    )
    return [_model_row(arm, learned.get(arm.model)) for arm in catalog.arms]


async def budgets_with_spend(settings: Settings) -> list[Row]:
    """One row a budget record and a user with spend in the current window, by user, `*` first.

    Raises:
        OperationFailed: no broker, or a topic is missing.
    """
    budgets = Budgets()
    window = window_start(time.time(), settings.budget_window_s, settings.budget_window_offset_s)
    _, spent = await asyncio.gather(
        read_to_end(settings, settings.topic("budgets"), budgets.apply), read_spend(settings, window)
    )
    users = sorted({*budgets.users, *spent}, key=lambda user: (user != EVERYONE_ELSE, user))
    return [_budget_row(user, budgets.limit_nanos(user), window, spent.get(user, Spend())) for user in users]


def _model_row(arm: Arm, learned: ArmStatistics | None) -> Row:
    rewards, tokens = (learned.reward, learned.log_tokens) if learned else (None, None)
    return {
        "model": arm.model,
        "input_usd_per_mtok": arm.input_usd_per_mtok,
        "output_usd_per_mtok": arm.output_usd_per_mtok,
        "request_usd": arm.request_usd,
        "enabled": arm.enabled,
        "observations": rewards.n if rewards else 0,
        "reward_sum": rewards.total if rewards else 0.0,
        "costs_settled": learned.costs_settled if learned else 0,
        "mean_output_tokens": learned.output_tokens / tokens.n if learned and tokens and tokens.n else 0.0,
    }


def _budget_row(user_id: str, limit: int | None, window: int, spend: Spend) -> Row:
    row: Row = {"user_id": user_id, "limit_usd": optional_usd(limit)}
    if user_id == EVERYONE_ELSE:
        return {**row, "window_start": None, "settled_usd": None, "reserved_usd": None, "queries": None}
    start = datetime.fromtimestamp(window, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        **row,
        "window_start": start,
        "settled_usd": to_usd(spend.settled),
        "reserved_usd": to_usd(spend.reserved),
        "queries": spend.queries,
    }
