from __future__ import annotations

import pytest

from worker.demo import faults
from worker.demo.faults import Fault
from worker.errors import BadRecord, DeadLetterCode
from worker.events import Feedback, Query, parse

UNUSABLE = faults.unusable("user-01")
UNREADABLE = [fault for fault in UNUSABLE if fault.code in ("invalid_json", "invalid_event")]
READABLE = [fault for fault in UNUSABLE if fault not in UNREADABLE]


def test_bad_records_cover_every_code() -> None:
    """Together with the two that need an earlier decision, every dead-letter code occurs."""
    late = (faults.unknown_model("q", "user-01"), faults.not_routed("q", "user-01"))
    assert {fault.code for fault in (*UNUSABLE, *late)} == set(DeadLetterCode)


@pytest.mark.parametrize("fault", UNREADABLE, ids=lambda fault: f"{fault.topic}-{fault.code}")
def test_unreadable_record_is_refused_with_its_code(fault: Fault) -> None:
    """What the demo sends as unreadable is what the worker cannot read, for the same reason."""
    kind = Query if fault.topic == "queries" else Feedback
    with pytest.raises(BadRecord) as refused:
        parse(kind, fault.value)
    assert refused.value.code == fault.code


@pytest.mark.parametrize("fault", READABLE, ids=lambda fault: fault.code)
def test_other_bad_records_are_wrong_in_one_thing_only(fault: Fault) -> None:
    """A record with a wrong key, place or length is fine otherwise, so that no earlier code hides its own."""
    kind = Query if fault.topic == "queries" else Feedback
    assert parse(kind, fault.value).user_id == "user-01"
