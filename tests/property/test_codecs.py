"""State in the changelogs: whatever is written comes back, and keys never collide."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.core.lives import choice, decided
from worker import codecs
from worker.core.fence import Event, Fence, Source
from worker.core.ledger import Spend
from worker.core.lifecycle import Choice, Money, Parked, Pending, Refused, Reward, Tokens
from worker.core.shard import ShardKey
from worker.core.verdict import History
from worker.errors import DeadLetterCode

QUICK = settings(deadline=None, derandomize=True, max_examples=100)

ids = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
offsets = st.integers(-1, 2**62)
nanos = st.integers(-(2**62), 2**62)
usd = st.floats(0, 1e6)
raw = st.binary(max_size=50)
events = st.builds(Event, st.sampled_from(Source), offsets)
counts = st.builds(Tokens, st.integers(0, 10**9), events, ids)
records = st.builds(
    Parked,
    offsets,
    st.integers(-1, 2**53),
    st.none() | raw,
    raw,
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=("Cs",)), max_size=5), st.none() | raw), max_size=3
    ).map(tuple),
)
choices = st.builds(
    Choice,
    model=ids,
    context=st.lists(st.floats(-1, 1, width=32), max_size=30).map(lambda values: np.array(values, np.float64)),
    fingerprint=ids,
    reservation=nanos,
    expected=nanos,
    predicted=nanos,
    input_tokens=st.integers(0, 10**9),
    input_usd_per_mtok=usd,
    output_usd_per_mtok=usd,
    request_usd=usd,
    bounded=st.booleans(),
)
pendings = st.builds(
    Pending,
    decision=st.none() | raw,
    offset=offsets,
    window=st.integers(-(10**9), 10**12),
    window_s=st.integers(0, 10**9),
    choice=st.none() | choices,
    money=st.none() | st.builds(Money, nanos, events, st.none() | ids, st.booleans()),
    reward=st.none() | st.builds(Reward, st.floats(0, 1), events, ids),
    tokens=st.none() | counts,
    guess=st.none() | counts,
    parked=st.lists(records, max_size=3).map(tuple),
    refused=st.lists(st.builds(Refused, records, st.sampled_from(DeadLetterCode), st.text(max_size=5)), max_size=2).map(
        tuple
    ),
    overflow=st.none() | st.tuples(offsets, offsets),
    denied=st.lists(offsets, max_size=4).map(tuple),
    changed_ms=st.integers(-1, 2**53),
)
spends = st.builds(
    Spend,
    nanos,
    nanos,
    nanos,
    st.integers(0, 2**62),
    st.builds(History, st.floats(0, 1e12), st.floats(0, 1e12)),
    st.builds(Fence, offsets, offsets),
)


@QUICK
@given(pendings)
def test_pending_comes_back(pending: Pending) -> None:
    """Every field of a pending record survives, decision and context byte for byte."""
    back = codecs.unpack_pending(codecs.pack_pending(pending))
    if pending.choice is not None:
        assert back.choice is not None
        np.testing.assert_array_equal(back.choice.context, pending.choice.context)
        assert back.choice.context.dtype == np.float64
        back = back._replace(choice=back.choice._replace(context=pending.choice.context))
    assert back == pending


@QUICK
@given(spends)
def test_spend_comes_back(spend: Spend) -> None:
    """Money, counts, history and both fences survive exactly."""
    assert codecs.unpack_spend(codecs.pack_spend(spend)) == spend


@QUICK
@given(ids, ids, ids, ids)
def test_pending_keys_do_not_collide(user: str, query: str, other_user: str, other_query: str) -> None:
    """Two ids make one key from which both come back, so two different pairs never share a record."""
    key = codecs.pack_pending_key(user, query)
    assert codecs.unpack_pending_key(key) == (user, query)
    assert (key == codecs.pack_pending_key(other_user, other_query)) == ((user, query) == (other_user, other_query))


@QUICK
@given(st.integers(0, 10**6), ids, ids)
def test_shard_key_comes_back(partition: int, fingerprint: str, model: str) -> None:
    """Partition, fingerprint and model of a shard come back from its key."""
    key = ShardKey(partition, fingerprint, model)
    assert ShardKey.unpack(key.pack()) == key


@QUICK
@given(ids, st.integers(-(10**6), 10**9))
def test_spend_key_gives_the_window_back(user: str, start: int) -> None:
    """A windowed changelog key, as Faust writes it, names user and window start."""
    assert codecs.unpack_spend_key(orjson.dumps((user, (float(start), start + 59.9)))) == (user, start)


def test_other_versions_are_refused() -> None:
    """A record of a later version is an error that names both versions."""
    with pytest.raises(codecs.CodecError, match="pending record of version 9, this worker reads 1"):
        codecs.unpack_pending(b"\x09" + codecs.pack_pending(Pending())[1:])
    with pytest.raises(codecs.CodecError, match="spend record of version 9, this worker reads 1"):
        codecs.unpack_spend(b"[9,0]")


def test_empty_decision_is_no_missing_decision() -> None:
    """An empty decision and none at all are two states."""
    for decision in (b"", None):
        assert codecs.unpack_pending(codecs.pack_pending(Pending(decision=decision))).decision == decision


def test_context_costs_four_bytes_a_number() -> None:
    """A context is stored as float32, which is the precision it has."""
    small = codecs.pack_pending(decided(choice(context=np.zeros(10))))
    assert len(codecs.pack_pending(decided(choice(context=np.zeros(58))))) - len(small) == 48 * 4
