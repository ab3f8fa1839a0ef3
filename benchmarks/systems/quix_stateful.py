"""A Quix Streams application with one small state per user, as its documentation says it is written.

It runs under an interpreter of its own: Quix pins older versions of what we use.

    python benchmarks/systems/quix_stateful.py ADDRESS GROUP STATE_DIR TARGET SOURCE...
"""

from __future__ import annotations

import sys
from typing import Any

from quixstreams import Application, State


def count(value: dict[str, Any], state: State) -> dict[str, Any]:
    """Count the user's events and their money; the answer has about a decision's size."""
    seen = state.get("events", 0) + 1
    spent = state.get("usd", 0.0) + value.get("cost_usd", 0.0)
    state.set("events", seen)
    state.set("usd", spent)
    return {"query_id": value["query_id"], "user_id": value["user_id"], "events": seen, "usd": spent}


def main(address: str, group: str, state_dir: str, target: str, sources: list[str]) -> None:
    """Run until a signal comes."""
    app = Application(
        broker_address=address, consumer_group=group, state_dir=state_dir, auto_offset_reset="earliest",
        commit_interval=0.5, loglevel="WARNING",
    )  # fmt: skip
    out = app.topic(target, key_serializer="bytes", value_serializer="json")
    for name in sources:
        source = app.topic(name, key_deserializer="bytes", value_deserializer="json")
        app.dataframe(source).apply(count, stateful=True).to_topic(out)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:5], sys.argv[5:])
