"""Catalog and budgets record by record, without a broker."""

from __future__ import annotations

import json

import pytest

from worker.core.arms import Arm
from worker.kafka.compacted import Record
from worker.kafka.control import Budgets, Catalog


def record(key: bytes | None, content: object, offset: int = 0) -> Record:
    value = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
    return Record(0, offset, 0, key, value)


def priced(model: str, **fields: object) -> Record:
    content = {"model": model, "input_usd_per_mtok": 1.5, "output_usd_per_mtok": 6, **fields}
    return record(model.encode(), content)


def test_arms_have_all_fields_and_a_fixed_order() -> None:
    """A model record becomes an arm with every field; arms are ordered by name whatever the order of arrival."""
    catalog = Catalog()
    catalog.apply(priced("b"))
    catalog.apply(priced("a", request_usd=0.25, enabled=False, max_input_tokens=9, tags=["y", "x"]))
    first, second = catalog.arms
    assert first == Arm(
        model="a",
        input_usd_per_mtok=1.5,
        output_usd_per_mtok=6.0,
        request_usd=0.25,
        enabled=False,
        max_input_tokens=9,
        tags=frozenset({"x", "y"}),
    )
    assert second == Arm(model="b", input_usd_per_mtok=1.5, output_usd_per_mtok=6.0)
    assert catalog.arm("b") is second
    assert catalog.arm("c") is None


def test_version_and_callback_follow_changes() -> None:
    """Each real change raises the version and calls back after it; a repeated record or tombstone does not."""
    seen: list[tuple[int, int]] = []
    catalog = Catalog(on_change=lambda: seen.append((catalog.version, len(catalog.arms))))
    for change in (priced("a"), priced("a"), priced("b"), record(b"a", None), record(b"a", None)):
        catalog.apply(change)
    assert seen == [(1, 1), (2, 2), (3, 1)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(b"a", b""), "invalid_json: the value is absent or empty"),
        (record(b"a", b"[1]"), "invalid_json: the value is a list, not an object"),
        (record(b"a", {"model": "a"}), "invalid_event: input_usd_per_mtok: Field required"),
        (record(b"b", json.loads(priced("a").value or b"")), "invalid_key: the key is 'b', the model 'a'"),
        (record(None, json.loads(priced("a").value or b"")), "invalid_key: the record has no key"),
        (record(b"\xff", None), "invalid_key: the key is not UTF-8"),
        (record(b"", None), "invalid_key: key: Value error, must not be empty"),
    ],
)
def test_bad_model_records_change_nothing(bad: Record, reason: str) -> None:
    """A record that cannot be used is reported with its reason, and the good value before it stays."""
    reported: list[tuple[str, int, str]] = []
    catalog = Catalog(on_bad=lambda *what: reported.append(what))
    catalog.apply(priced("a"))
    catalog.apply(bad)
    assert [arm.model for arm in catalog.arms] == ["a"]
    assert catalog.version == 1
    assert reported == [("models", 0, reason)]


def test_limits_fall_back_to_everyone_else() -> None:
    """A user's own limit counts, else that of `*`, else there is none; a tombstone returns to `*`."""
    budgets = Budgets()
    assert budgets.limit_nanos("ann") is None
    budgets.apply(record(b"ann", {"limit_usd": 0}))
    assert (budgets.limit_nanos("ann"), budgets.limit_nanos("bob")) == (0, None)
    budgets.apply(record(b"*", {"limit_usd": 1e-9}))
    assert (budgets.limit_nanos("ann"), budgets.limit_nanos("bob")) == (0, 1)
    budgets.apply(record(b"ann", None))
    assert budgets.limit_nanos("ann") == 1
    assert budgets.users == ("*",)


@pytest.mark.parametrize("content", [{"limit_usd": -1}, {"limit_usd": "1"}, {}, b"nonsense"])
def test_bad_budget_records_change_nothing(content: object) -> None:
    """A budget that cannot be used leaves the last good one."""
    reported: list[str] = []
    budgets = Budgets(on_bad=lambda topic, *_: reported.append(topic))
    budgets.apply(record(b"ann", {"limit_usd": 2}))
    budgets.apply(record(b"ann", content))
    assert budgets.limit_nanos("ann") == 2_000_000_000
    assert reported == ["budgets"]
