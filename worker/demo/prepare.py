"""Everything between an empty broker and workers that can decide: topics, models, budgets, prior."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from platformdirs import user_cache_path

from worker.core.verdict import FloatArray
from worker.demo import data
from worker.demo.data import Dataset
from worker.demo.plan import Plan
from worker.demo.supervise import clean_environment, pilot
from worker.encode.stored import embed
from worker.errors import OperationFailed
from worker.kafka import connect, topics
from worker.kafka.publish import publish
from worker.settings import Settings, load

PARTITIONS = 4
PAPER = "paper"
# Early feedback waits this long for its query; half of the stream lets the one that waits in vain end with it.
MIN_PARK_S, MAX_PARK_S = 15, 60
# The budget window opens once the workers should be ready: each loads the encoder, several at once, and joins a group.
LOADS_UNTIL_READY = 2.5
JOIN_S = 12.0
PROBE = 48  # texts that tell how fast this machine encodes just now

Say = Callable[[str], None]
Environment = dict[str, str]


@dataclass(slots=True)
class Deployment:
    """Where the demo's topics and files are, and which settings it asks for.

    `bootstrap` is set once the local broker has an address.
    """

    bootstrap: str
    prefix: str
    folder: Path
    policy: str | None
    preset: str | None
    connection: Environment = field(default_factory=dict)  # security settings of a broker that is not ours

    @property
    def prior(self) -> Path:
        """The artefact that the workers start from."""
        return self.folder / "prior.npz"

    @property
    def settings(self) -> Settings:
        """Where the topics are, for what runs inside this process."""
        return load(Path(os.devnull), {**self.connection, **self._place()})[0]

    def _place(self) -> Environment:
        return {"PILOT_BOOTSTRAP_SERVERS": self.bootstrap, "PILOT_TOPIC_PREFIX": self.prefix}

    def environment(self) -> Environment:
        """Settings that every command of the run shares."""
        chosen = {"PILOT_POLICY": self.policy, "PILOT_PRESET": self.preset}
        return {
            **clean_environment(),
            **{name: value for name, value in chosen.items() if value is not None},
            **self.connection,
            **self._place(),
            "PILOT_DATA_DIR": str(self.folder / "state"),
            "PILOT_PRIOR": str(self.prior),
        }

    def worker_environment(self, plan: Plan, opens_at: int) -> Environment:
        """The workers' settings: a budget window as long as the plan begins at `opens_at` (UNIX seconds)."""
        return {
            **self.environment(),
            "PILOT_BUDGET_WINDOW_S": str(plan.window_s),
            "PILOT_BUDGET_WINDOW_OFFSET_S": str(opens_at % plan.window_s),
            "PILOT_PARK_S": str(park_s(plan)),
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the set-up left: embeddings by row for the queries sent as such, and how fast this machine is now."""

    embeddings: dict[int, list[float]]
    encoder_load_s: float
    texts_per_s: float

    def opening(self) -> int:
        """When the budget window of workers that start now should open, in whole UNIX seconds."""
        return int(time.time() + LOADS_UNTIL_READY * self.encoder_load_s + JOIN_S)


def build_prior(deployment: Deployment, dataset: Dataset, plan: Plan, say: Say) -> Prepared:
    """Write the prior artefact from the prior rows; encode what is sent as embeddings.

    Preset `paper` starts from preferences, as published: the scores become votes between pairs.
    """
    from worker.encode import sentence
    from worker.pretrain import preferences, table

    begin = time.monotonic()
    encoder = sentence.load(deployment.settings.encoder, deployment.settings.embedding_dim)
    loaded = time.monotonic()
    encoder.encode(dataset.stream.prompts[:PROBE])
    probed = time.monotonic()

    def encode(texts: Sequence[str]) -> FloatArray:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            say(f"encoding prompts: {done:,} of {len(texts):,}")

        return embed(encoder, texts, user_cache_path("pilot-router") / "demo", advance)

    rows_file = deployment.folder / "prior.jsonl"
    how: dict[str, Any] = {"encode": encode, "encoder_id": encoder.identity, "progress": say}
    if deployment.preset == PAPER:
        data.write_battles(rows_file, dataset.prior, dataset.names)
        preferences.run(rows_file, deployment.prior, method="triplet", **how)
    else:
        data.write_table(rows_file, dataset.prior, dataset.names)
        table.run(rows_file, deployment.prior, **how)
    rows = plan.embedded_rows
    vectors = encode([dataset.stream.prompts[row] for row in rows]) if rows else ()
    embeddings = {row: [float(value) for value in vector] for row, vector in zip(rows, vectors, strict=True)}
    return Prepared(embeddings, loaded - begin, PROBE / (probed - loaded))


def create_topics(deployment: Deployment, dataset: Dataset, limits_usd: Mapping[str, float]) -> None:
    """Create the topics and fill the two control topics."""
    asyncio.run(topics.create(deployment.settings, PARTITIONS))
    catalog = deployment.folder / "models.yaml"
    catalog.write_text(yaml.safe_dump({"models": [model.record() for model in dataset.models]}, sort_keys=False))
    run_pilot(deployment.environment(), "models", "apply", str(catalog))
    # All at once: a command for each user would take a second each.
    budgets = {user_id: json.dumps({"limit_usd": limit}).encode() for user_id, limit in limits_usd.items()}
    asyncio.run(publish(deployment.settings, deployment.settings.topic("budgets"), dict(budgets)))


def drop_topics(deployment: Deployment) -> None:
    """Delete every topic of the deployment."""
    asyncio.run(_drop([topic.name for topic in topics.declared(deployment.settings)], deployment.settings))


async def _drop(names: list[str], settings: Settings) -> None:
    async with connect.admin(settings) as client:
        await client.delete_topics(names)


def learned(deployment: Deployment) -> list[dict[str, Any]]:
    """What the workers say they learned: `pilot models list --json`."""
    rows: list[dict[str, Any]] = json.loads(run_pilot(deployment.environment(), "models", "list", "--json"))
    return rows


def run_pilot(environment: Environment, *arguments: str) -> str:
    """Run a `pilot` command to its end and return its output.

    Raises:
        OperationFailed: it failed; its own line is in the message.
    """
    done = subprocess.run(pilot(*arguments), env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OperationFailed(f"pilot {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def park_s(plan: Plan) -> int:
    """How long early feedback waits for its query, in seconds."""
    return min(MAX_PARK_S, max(MIN_PARK_S, plan.window_s // 2))


def next_opening(opens_at: int, window_s: int) -> float:
    """Seconds until the window that opens at `opens_at`, or the next one after it, opens."""
    late = time.time() - opens_at
    return -late if late < 0 else window_s - late % window_s
