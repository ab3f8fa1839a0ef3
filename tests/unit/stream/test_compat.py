"""The patch of Faust's flow control, and the fault that it mends."""

from __future__ import annotations

import pytest
from mode.utils.queues import FlowControlEvent, FlowControlQueue

from worker.stream import compat


@pytest.fixture(autouse=True)
def _unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlowControlEvent, "resume", compat._resume)


def queued_after_second_resume() -> int:
    """How many of three queued events survive a `resume` that follows another, as recovery calls it."""
    flow = FlowControlEvent(initially_suspended=True)
    queue: FlowControlQueue[int] = FlowControlQueue(flow_control=flow, clear_on_resume=True)
    flow.resume()
    for number in range(3):
        queue.put_nowait(number)
    flow.resume()
    return queue.qsize()


async def test_upstream_still_drops_events() -> None:
    """Upstream empties the queues although the flow was not suspended (#596); when this fails, drop the patch."""
    assert queued_after_second_resume() == 0


async def test_patched_resume_keeps_events() -> None:
    """With the patch a second `resume` drops nothing that was handed out."""
    compat.install()
    assert queued_after_second_resume() == 3


async def test_patched_resume_still_resumes() -> None:
    """A suspended flow starts again and what is stale in its queues is cleared, as before."""
    compat.install()
    flow = FlowControlEvent(initially_suspended=False)
    queue: FlowControlQueue[int] = FlowControlQueue(flow_control=flow, clear_on_resume=True)
    queue.put_nowait(1)
    flow.suspend()
    flow.resume()
    assert flow.is_active()
    assert queue.qsize() == 0


async def test_patch_is_applied_once() -> None:
    """Installing again wraps nothing twice."""
    compat.install()
    first = FlowControlEvent.resume
    compat.install()
    assert FlowControlEvent.resume is first
