"""What every program that a test starts inherits."""

from __future__ import annotations

import os
import signal


def pytest_configure() -> None:
    # A broker that lives for minutes: with the first compiler only, and with the plain collector, its start takes
    # less than half of the CPU time.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    # A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
