"""Everything between an empty broker and workers that can decide: topics, models, budgets, prior."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from worker.core.verdict import FloatArray
from worker.demo import data
from worker.demo.data import Dataset
from worker.demo.embeddings import embed
from worker.demo.plan import Plan
from worker.demo.supervise import clean_environment, pilot
from worker.errors import OperationFailed
from worker.kafka import connect, topics
from worker.kafka.publish import publish
from worker.settings import Settings

PARTITIONS = 4
PARK_S = 15
# Workers load the encoder before they are ready; the budget window opens this long after their start.
OPENS_AFTER_S = 30

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

    @property
    def prior(self) -> Path:
        """The artefact that the workers start from."""
        return self.folder / "prior.npz"

    @property
    def settings(self) -> Settings:
        """Where the topics are, for what runs inside this process."""
        return Settings(bootstrap_servers=self.bootstrap, topic_prefix=self.prefix)

    def environment(self) -> Environment:
        """Settings that every command of the run shares."""
        chosen = {"PILOT_POLICY": self.policy, "PILOT_PRESET": self.preset}
        return {
            **clean_environment(),
            **{name: value for name, value in chosen.items() if value is not None},
            "PILOT_BOOTSTRAP_SERVERS": self.bootstrap,
            "PILOT_TOPIC_PREFIX": self.prefix,
            "PILOT_DATA_DIR": str(self.folder / "state"),
        }

    def worker_environment(self, window_s: int, opens_at: int) -> Environment:
        """The workers' settings: a budget window of `window_s` begins at `opens_at` (UNIX seconds)."""
        return {
            **self.environment(),
            "PILOT_PRIOR": str(self.prior),
            "PILOT_BUDGET_WINDOW_S": str(window_s),
            "PILOT_BUDGET_WINDOW_OFFSET_S": str(opens_at % window_s),
            "PILOT_PARK_S": str(PARK_S),
        }


def build_prior(deployment: Deployment, dataset: Dataset, plan: Plan, say: Say) -> dict[int, list[float]]:
    """Write the prior artefact from the prior rows; return the embeddings of the rows sent as such."""
    from worker.encode import sentence
    from worker.pretrain import table

    encoder = sentence.load(deployment.settings.encoder, deployment.settings.embedding_dim)

    def encode(texts: Sequence[str]) -> FloatArray:
        return embed(encoder, texts, say)

    scores = deployment.folder / "prior.jsonl"
    data.write_table(scores, dataset.prior, dataset.names)
    table.run(scores, deployment.prior, encode=encode, encoder_id=encoder.identity, progress=say)
    rows = plan.embedded_rows
    if not rows:
        return {}
    vectors = encode([dataset.stream.prompts[row] for row in rows])
    return dict(zip(rows, vectors.tolist(), strict=True))


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
    rows: list[dict[str, Any]] = json.loads(run_pilot(deployment.worker_environment(1, 0), "models", "list", "--json"))
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


def opening(now: float) -> int:
    """When the budget window of workers that start `now` opens, in whole UNIX seconds."""
    return int(now) + OPENS_AFTER_S


def next_opening(opens_at: int, window_s: int) -> float:
    """Seconds until the window that opens at `opens_at`, or the next one after it, opens."""
    late = time.time() - opens_at
    return -late if late < 0 else window_s - late % window_s
