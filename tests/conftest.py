"""What every program that a test starts inherits."""

from __future__ import annotations

import os
import signal


def pytest_configure() -> None:
    # A broker that lives for minutes: with the first compiler only its start takes 7 s of CPU time instead of 12.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    # A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
