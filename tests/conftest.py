"""What every program that a test starts inherits."""

from __future__ import annotations

import os
import signal


def pytest_configure() -> None:
    # A broker that lives for minutes: with the first compiler only, the plain collector and its jars not verified
    # again, its start takes half of the CPU time.
    unverified = "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
    os.environ.setdefault("JAVA_TOOL_OPTIONS", f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC {unverified}")
    # A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
