from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from worker.demo import interrupts, supervise
from worker.demo.supervise import Fleet
from worker.errors import OperationFailed


def test_worker_that_ends_early_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    """A worker that cannot start ends the wait with its exit code and its own last words."""
    fleet = Fleet(tmp_path, {**supervise.clean_environment(), "PILOT_NO_SUCH_SETTING": "1"})
    fleet.start(1)
    try:
        fleet.workers[0].process.wait(60)
        with pytest.raises(OperationFailed, match=r"(?s)demo-1 ended with exit code 2.*PILOT_NO_SUCH_SETTING"):
            fleet.require_alive()
    finally:
        fleet.stop()


def test_workers_have_ids_and_ports_of_their_own(tmp_path: Path) -> None:
    """Two workers never share an id, a port or a log."""
    fleet = Fleet(tmp_path, {**supervise.clean_environment(), "PILOT_NO_SUCH_SETTING": "1"})
    fleet.start(2)
    fleet.stop()
    for name in ("PILOT_WORKER_ID", "PILOT_HTTP_PORT"):
        assert len({worker.environment[name] for worker in fleet.workers}) == 2
    assert len({worker.log for worker in fleet.workers}) == 2


def test_stopping_leaves_no_process(tmp_path: Path) -> None:
    """A worker that is still starting is gone after the stop, and its exit was collected."""
    fleet = Fleet(tmp_path, supervise.clean_environment())
    fleet.start(1)
    fleet.stop()
    assert fleet.workers[0].process.returncode is not None


def test_settings_of_another_deployment_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in the caller's environment do not reach the demo's workers."""
    monkeypatch.setenv("PILOT_POLICY", "unlimited")
    assert not [name for name in supervise.clean_environment() if name.startswith("PILOT_")]


def test_sigterm_interrupts_as_ctrl_c_does() -> None:
    """SIGTERM raises KeyboardInterrupt, so that the same tidying up runs."""
    with pytest.raises(KeyboardInterrupt), interrupts.sigterm_interrupts():
        signal.raise_signal(signal.SIGTERM)


def test_tidying_up_is_not_interrupted() -> None:
    """A second Ctrl-C while things are being stopped changes nothing; afterwards it counts again."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background jobs
    with interrupts.uninterrupted():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--queries", "0"], "--queries"), (["--policy", "best"], "--policy"), (["--out", "/dev/null/x"], "--out")],
)
def test_wrong_use_is_exit_2(arguments: list[str], named: str) -> None:
    """An option that cannot be used is named, before anything is started."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "demo", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert named in done.stderr
