"""Patches of Faust, each with its reason, and the versions they were written for."""

from __future__ import annotations

import os
from importlib.metadata import version

import structlog
from mode.utils.queues import FlowControlEvent

from worker.errors import OperationFailed

KNOWN_VERSIONS = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.0"}

# Set to try other versions, as `make check-upstream` does; never in production.
UNCHECKED = "UPSTREAM_UNCHECKED"

logger = structlog.get_logger(__name__)
_resume = FlowControlEvent.resume


def _resume_if_suspended(self: FlowControlEvent) -> None:
    if not self.is_active():
        _resume(self)


def check_versions() -> None:
    """Refuse versions whose private parts were not examined.

    Raises:
        OperationFailed: names the package. Operator action: install the pinned version.
    """
    for package, known in KNOWN_VERSIONS.items():
        installed = version(package)
        if installed == known:
            continue
        message = f"{package} {installed} is installed, this worker was built for {known}"
        if not os.environ.get(UNCHECKED):
            raise OperationFailed(message)
        logger.warning("unchecked version", reason=message)


def install() -> None:
    """Apply the patches; calling it again changes nothing.

    `FlowControlEvent.resume` clears the queues of all agents even when the flow was
    not suspended, and recovery calls it after the streams have restarted: events
    already handed out are dropped silently (faust-streaming/faust#596).
    """
    FlowControlEvent.resume = _resume_if_suspended
