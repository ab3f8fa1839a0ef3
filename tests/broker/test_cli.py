"""The commands as an operator types them, against a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from worker import codecs
from worker.core.ledger import Spend, window_start
from worker.core.prior import default_prior
from worker.core.shard import Shard, ShardKey
from worker.core.statistics import ArmStatistics
from worker.kafka import compacted, connect
from worker.settings import Settings

PILOT = Path(sys.executable).with_name("pilot")
MODELS = """\
models:
  - model: small
    input_usd_per_mtok: 0.1
    output_usd_per_mtok: 0.4
  - {model: large, input_usd_per_mtok: 2, output_usd_per_mtok: 8, enabled: false, tags: [vision]}
"""

Pilot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pilot(settings: Settings, tmp_path: Path) -> Pilot:
    environment = {
        **os.environ,
        "PILOT_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "PILOT_TOPIC_PREFIX": settings.topic_prefix,
    }

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PILOT, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def rows(pilot: Pilot, *arguments: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(pilot(*arguments, "--json").stdout)
    return content


async def write(settings: Settings, topic: str, *records: tuple[bytes, bytes, int]) -> None:
    async with connect.producer(settings) as producer:
        for key, value, partition in records:
            await producer.send_and_wait(topic, value, key=key, partition=partition)


def test_topics(pilot: Pilot) -> None:
    """`check` fails with one line a missing topic until `create` has made them; both may be repeated."""
    before = pilot("topics", "check", code=1)
    assert len(before.stdout.splitlines()) == 10
    assert before.stderr == "pilot: 10 differences from what is needed\n"
    assert pilot("topics", "create", "--partitions", "2").stdout.count(": created") == 10
    assert pilot("topics", "create").stdout.count(": exists") == 10
    assert pilot("topics", "check").stdout == "all topics are as needed\n"
    assert "must have the same number" in pilot("topics", "create", "--partitions", "3", code=2).stderr


def test_models_apply_list_remove(pilot: Pilot, tmp_path: Path) -> None:
    """Applied models are listed with their prices and zeros, a second file adds, only `remove` removes."""
    pilot("topics", "create")
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "more.yaml").write_text("models: [{model: mid, input_usd_per_mtok: 1, output_usd_per_mtok: 1}]")
    pilot("models", "apply", "models.yaml")
    pilot("models", "apply", "more.yaml")

    listed = rows(pilot, "models", "list")

    assert [row["model"] for row in listed] == ["large", "mid", "small"]
    assert listed[0] == {
        "model": "large",
        "input_usd_per_mtok": 2.0,
        "output_usd_per_mtok": 8.0,
        "request_usd": 0.0,
        "enabled": False,
        "observations": 0,
        "reward_sum": 0.0,
        "costs_settled": 0,
        "mean_output_tokens": 0.0,
    }
    pilot("models", "remove", "large")
    assert [row["model"] for row in rows(pilot, "models", "list")] == ["mid", "small"]
    table = pilot("models", "list").stdout
    assert "small" in table
    assert "large" not in table


async def test_applied_record_is_complete(pilot: Pilot, settings: Settings, tmp_path: Path) -> None:
    """The record on the models topic is keyed by the model and has every field that the file gave."""
    pilot("topics", "create")
    (tmp_path / "models.yaml").write_text(MODELS)
    pilot("models", "apply", "models.yaml")
    found = await compacted.latest(settings, settings.topic("models"))
    assert json.loads(found[b"large"].value or b"") == {
        "model": "large",
        "input_usd_per_mtok": 2.0,
        "output_usd_per_mtok": 8.0,
        "request_usd": 0.0,
        "enabled": False,
        "expected_output_tokens": 256,
        "tags": ["vision"],
    }


def test_models_list_sums_all_partitions(pilot: Pilot, settings: Settings, tmp_path: Path) -> None:
    """What was learned is the sum of all partitions' shards of the fingerprint in force, by the model that ran."""
    pilot("topics", "create")
    (tmp_path / "models.yaml").write_text(MODELS)
    pilot("models", "apply", "models.yaml")
    prior = default_prior()
    context = np.zeros(prior.projection.dimension)

    def shard(rewards: list[float], tokens: int) -> bytes:
        statistics = ArmStatistics.zeros(len(context))
        for reward in rewards:
            statistics.reward.learn(context, reward)
            statistics.log_tokens.learn(context, 1.0)
            statistics.output_tokens += tokens
            statistics.costs_settled += 1
        return Shard(statistics).pack()

    here, elsewhere = prior.fingerprint, "another"
    records = [
        (ShardKey(0, here, "small").pack(), shard([0.5, 1.0], 100), 0),
        (ShardKey(3, here, "small").pack(), shard([0.25], 40), 3),
        (ShardKey(1, elsewhere, "small").pack(), shard([1.0], 7), 1),
        (ShardKey(1, here, "removed").pack(), shard([1.0], 7), 1),
    ]
    asyncio.run(write(settings, settings.changelog("arms"), *records))

    large, small = rows(pilot, "models", "list")

    assert (small["observations"], small["reward_sum"], small["costs_settled"]) == (3, 1.75, 3)
    assert small["mean_output_tokens"] == 80.0
    assert large["observations"] == 0


def test_budgets_set_list_unset(pilot: Pilot) -> None:
    """Budgets are listed with `*` first and without amounts; an unset user is listed no more."""
    pilot("topics", "create")
    pilot("budgets", "set", "*", "0.5")
    pilot("budgets", "set", "ann", "2")

    everyone, ann = rows(pilot, "budgets", "list")

    assert everyone == {
        "user_id": "*",
        "limit_usd": 0.5,
        "window_start": None,
        "settled_usd": None,
        "reserved_usd": None,
        "queries": None,
    }
    assert (ann["user_id"], ann["limit_usd"], ann["queries"], ann["settled_usd"]) == ("ann", 2.0, 0, 0.0)
    pilot("budgets", "unset", "ann")
    assert [row["user_id"] for row in rows(pilot, "budgets", "list")] == ["*"]


def test_budgets_list_joins_the_current_window(pilot: Pilot, settings: Settings) -> None:
    """A user with spend in this window is listed with the limit of `*`; other windows do not count."""
    pilot("topics", "create")
    pilot("budgets", "set", "*", "0.5")
    length = settings.budget_window_s
    window = window_start(time.time(), length, 0)

    def key(user: str, start: int) -> bytes:
        return orjson.dumps([user, [float(start), start + length - 0.1]])

    now = codecs.pack_spend(Spend(settled=1_500, reserved=250_000_000, queries=3))
    old = codecs.pack_spend(Spend(settled=9, queries=9))
    records = [
        (key("bob", window), now, 2),
        (key("bob", window - length), old, 2),
        (key("eve", window - length), old, 1),
    ]
    asyncio.run(write(settings, settings.changelog("spend"), *records))

    _, bob = rows(pilot, "budgets", "list")

    start = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(window))
    assert bob == {
        "user_id": "bob",
        "limit_usd": 0.5,
        "window_start": start,
        "settled_usd": 1.5e-06,
        "reserved_usd": 0.25,
        "queries": 3,
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("budgets", "set", "ann", "nan"), "USD nan: must be between 0 and"),
        (("budgets", "set", "--", "ann", "-1"), "USD -1.0: must be between 0 and"),
        (("budgets", "set", "", "1"), "USER '': Value error, must not be empty"),
        (("models", "remove", "a\x01"), "must not contain control characters"),
        (("dead-letters", "replay", "--since", "yesterday"), "'yesterday' is no RFC 3339 time"),
        (("dead-letters", "list", "--since", "2026-01-01T00:00:00"), "has no time zone"),
        (("dead-letters", "list", "--code", "nonsense"), "'nonsense' is not one of"),
    ],
)
def test_wrong_use_writes_nothing(pilot: Pilot, arguments: tuple[str, ...], says: str) -> None:
    """A wrong value is exit code 2 and says which, before any broker is asked."""
    failed = pilot(*arguments, code=2)
    assert says in failed.stderr
    assert failed.stdout == ""


def test_missing_topic_says_what_to_do(pilot: Pilot) -> None:
    """Commands before `pilot topics create` fail with one line that names it."""
    failed = pilot("models", "list", code=1)
    assert failed.stderr.endswith("no such topic, run `pilot topics create`\n")
    assert len(failed.stderr.splitlines()) == 1
