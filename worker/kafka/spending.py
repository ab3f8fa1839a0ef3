"""What every user has spent in one budget window, from the spend changelog."""

from __future__ import annotations

from worker.codecs import CodecError, unpack_spend, unpack_spend_key, unpack_window_length
from worker.core.ledger import Spend
from worker.errors import OperationFailed
from worker.kafka.compacted import latest
from worker.settings import Settings


async def read_spend(settings: Settings, window: int) -> dict[str, Spend]:
    """Spend by user in the window of the present length that starts at `window`, seconds since the epoch.

    Raises:
        OperationFailed: no broker, no such topic, or records of another version.
    """
    topic = settings.changelog("spend")
    spent: dict[str, Spend] = {}
    for key, record in (await latest(settings, topic)).items():
        user_id, start = unpack_spend_key(key)
        if start != window or unpack_window_length(key) != settings.budget_window_s or record.value is None:
            continue
        try:
            spent[user_id] = unpack_spend(record.value)
        except CodecError as error:
            raise OperationFailed(f"{topic}: {error}") from None
    return spent
