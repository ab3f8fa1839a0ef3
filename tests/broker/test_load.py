"""Poison and load: nothing that clients send stops the stream, makes the worker grow, or starves the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker.support import deployed
from tests.load.scenarios import PARTITIONS, Crowd

MODELS = [{"model": "only", "input_usd": 1.0, "output_usd": 2.0}]
LEAST_MIB = 100  # caches that fill, and the allocator's reserves
HUGE = 40


@pytest.fixture(scope="module")
def crowd(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """A worker for all of it: what one scenario leaves behind burdens the next."""
    folder = tmp_path_factory.mktemp("load")
    with deployed(broker, folder, MODELS, PARTITIONS, decision_detail="chosen") as deployment:
        yield Crowd(deployment)


def test_records_of_a_mebibyte(crowd: Crowd) -> None:
    """Huge records become dead letters, and their memory comes back."""
    assert crowd.huge(HUGE).grown < LEAST_MIB


def test_deep_json(crowd: Crowd) -> None:
    """JSON of 10,000 levels is a dead letter: it exhausts neither the stack nor anybody's patience."""
    assert crowd.deep(60).grown < LEAST_MIB


def test_fuzzed_records(crowd: Crowd) -> None:
    """Of five thousand records with anything in any field, each query record is answered exactly once."""
    assert crowd.fuzz(5_000).grown < LEAST_MIB


def test_flood_of_duplicates(crowd: Crowd) -> None:
    """The same query and the same feedback five hundred times are one decision and one settlement."""
    assert crowd.duplicates(1_000).grown < LEAST_MIB


def test_user_with_many_open_queries(crowd: Crowd) -> None:
    """The ledger of a user with five hundred open queries adds up, before and after they settle."""
    assert crowd.one_user(500).grown < LEAST_MIB


def test_many_users(crowd: Crowd) -> None:
    """Five hundred users at once are all served."""
    assert crowd.many_users(500).grown < LEAST_MIB
