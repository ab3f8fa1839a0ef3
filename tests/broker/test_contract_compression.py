"""Clients may compress what they send, with any codec that Kafka knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.broker.conftest import MODELS
from tests.broker.support import EMBEDDING, Deployment, Sent, deployed, unique
from worker.kafka import connect
from worker.kafka.deadletters import Selection
from worker.kafka.replay import replay

CODECS = ("gzip", "snappy", "lz4", "zstd")
HUGE = 7 * 1024 * 1024  # more than a topic takes uncompressed


def send(deployment: Deployment, codec: str, topic: str, user: str, content: object) -> Sent:
    """Write one record in a compressed batch, as a client with this setting does."""

    async def write() -> Sent:
        servers = connect.client_arguments(deployment.settings)
        name, value = deployment.settings.topic(topic), json.dumps(content).encode()
        async with AIOKafkaProducer(**servers, compression_type=codec, max_request_size=2 * HUGE) as producer:
            sent = await producer.send_and_wait(name, value, user.encode())
        return Sent(name, sent.partition, sent.offset, sent.timestamp, value)

    return deployment.client.run(write())


@pytest.mark.parametrize("codec", CODECS)
def test_every_topic_may_be_compressed(standard: Deployment, codec: str) -> None:
    """A budget, a query and its feedback count as if they had been sent plain."""
    client, user, query_id = standard.client, unique("user"), unique("q")
    send(standard, codec, "budgets", user, {"limit_usd": 1.0})
    client.limit(user, 1.0)
    query = {"query_id": query_id, "user_id": user, "embedding": EMBEDDING * 4, "models": ["large"]}
    assert client.code(send(standard, codec, "queries", user, query)) == "invalid_embedding"
    send(standard, codec, "queries", user, {**query, "embedding": EMBEDDING})
    assert json.loads(client.decisions(query_id)[0].value)["model"] == "large"
    client.committed(send(standard, codec, "feedback", user, {"query_id": query_id, "user_id": user, "cost_usd": 0.25}))
    account = client.account(user)
    assert account is not None
    assert account["settled_usd"] == 0.25


def test_what_fits_only_compressed_is_set_aside_and_put_back(broker: str, tmp_path: Path) -> None:
    """The broker accepts it for its compressed size; a dead letter and a replay must not need more than that."""
    with deployed(broker, tmp_path, MODELS) as own:
        query = {"query_id": "huge", "user_id": "ann", "text": "x" * HUGE}
        sent = send(own, "gzip", "queries", "ann", query)
        (letter,) = own.client.letters(sent)
        assert letter.value == sent.value
        done = own.client.run(replay(own.settings, Selection()))
        assert [each.source_offset for each in done.replayed] == [sent.offset]
        again = Sent(sent.topic, sent.partition, sent.offset + 1, 0, None)  # the first of its partition after it
        assert own.client.letters(again)[0].value == sent.value
        assert own.client.decide("ann")["status"] == "routed"
