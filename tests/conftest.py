"""What every program that a test starts inherits."""

from __future__ import annotations

import os
import signal


def pytest_configure() -> None:
    # A test's broker lives for minutes: with the first compiler only and one collector it takes half the CPU time.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    # A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
