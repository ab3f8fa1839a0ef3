"""The command line as a whole: exit codes, help, settings. Without a broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import worker.cli
from worker.cli.root import pilot as root
from worker.errors import ExitCode, OperationFailed, UsageError, WorkerMustStop

PILOT = Path(sys.executable).with_name("pilot")


def pilot(*arguments: str, cwd: Path | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    return subprocess.run(
        [PILOT, *arguments], env={**environment, **settings}, cwd=cwd, capture_output=True, text=True, check=False
    )


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("x is wrong"), 2, "pilot: x is wrong\n"),
        (OperationFailed("x failed"), 1, "pilot: x failed\n"),
        (WorkerMustStop(ExitCode.LEASE_LOST, "lease lost"), 73, "pilot: lease lost\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
    ],
)
def test_failures_become_exit_codes(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of failure has its exit code and at most one line on stderr."""
    monkeypatch.setattr(root, "get_command", lambda *_: click.Command("x", callback=raising(error)))
    assert worker.cli.run(["x"]) == code
    assert capsys.readouterr().err.lstrip() == line


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`pilot --help` lists the commands of the contract, and each has help of its own."""
    listed = pilot("--help")
    assert listed.returncode == 0
    for name in root.list_commands(click.Context(root)):
        assert f"  {name} " in listed.stdout
        assert worker.cli.run([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: pilot {name}")


def test_help_imports_nothing_heavy() -> None:
    """Help of the whole command line loads no numeric library, no Faust and no Kafka client."""
    heavy = ("numpy", "torch", "faust", "aiokafka", "pandas", "sentence_transformers", "matplotlib", "sklearn")
    code = (
        "import sys, worker.cli; worker.cli.run(['--help']); "
        f"sys.exit(' '.join(name for name in {heavy!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    ("typed", "offered"), [("pilot do", "doctor"), ("pilot tail dec", "decisions"), ("pilot explain --us", "--user")]
)
def test_the_shell_completes(typed: str, offered: str) -> None:
    """Commands, arguments and options, as the README sets it up."""
    words = typed.split()
    asked = {"_PILOT_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    assert pilot(**asked).stdout.split() == [f"plain,{offered}"]


@pytest.mark.parametrize("arguments", [("nonsense",), ("models",), ("budgets", "set", "ann"), ("kafka", "start", "-p")])
def test_wrong_use_is_exit_2(arguments: tuple[str, ...]) -> None:
    """An unknown command, a missing one and a missing or unknown argument are wrong use."""
    assert pilot(*arguments).returncode == 2


def test_wrong_settings_are_exit_2(tmp_path: Path) -> None:
    """A wrong setting stops a command before it does anything, with one line that names it."""
    unknown = pilot("topics", "check", cwd=tmp_path, PILOT_COLOUR="red")
    assert (unknown.returncode, unknown.stderr) == (2, "pilot: PILOT_COLOUR: unknown setting\n")
    missing = pilot("--config", "none.toml", "topics", "check", cwd=tmp_path)
    assert missing.returncode == 2
    assert missing.stderr.startswith("pilot: none.toml: ")


@pytest.mark.parametrize("servers", ["nonsense:port", "127.0.0.1", ":9092", "127.0.0.1:99999", "a:1,", "a:²"])
def test_bad_broker_address_is_exit_2(
    servers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address that no client could use is said to be wrong before one tries."""
    monkeypatch.setenv("PILOT_BOOTSTRAP_SERVERS", servers)
    assert worker.cli.run(["topics", "check"]) == 2
    assert capsys.readouterr().err.startswith(f"pilot: PILOT_BOOTSTRAP_SERVERS={servers!r}: ")


def test_no_broker_is_exit_1(tmp_path: Path) -> None:
    """A command that nobody answers fails with one line that names the address."""
    failed = pilot("topics", "check", cwd=tmp_path, PILOT_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert failed.returncode == 1
    assert failed.stderr == "pilot: no Kafka broker answers at 127.0.0.1:1 (PILOT_BOOTSTRAP_SERVERS)\n"


def test_settings_show_value_origin_and_meaning(tmp_path: Path) -> None:
    """`pilot settings` says of every setting what it is, where it came from and what it means."""
    (tmp_path / "own.toml").write_text('fallback = "cheapest"\n')
    arguments = ("--config", "own.toml", "settings", "--json")
    done = pilot(*arguments, cwd=tmp_path, PILOT_PRESET="paper", PILOT_PARK_S="7")
    rows = {row["setting"]: (row["value"], row["origin"]) for row in json.loads(done.stdout)}
    assert rows["PILOT_FALLBACK"] == ("cheapest", "file")
    assert rows["PILOT_PARK_S"] == (7.0, "environment")
    assert rows["PILOT_POLICY"] == ("zcl", "preset")
    assert rows["PILOT_DECISION_TTL_S"] == (86_400.0, "default")
    assert rows["PILOT_WORKER_ID"][0].endswith("-8080")
    table = pilot("settings", cwd=tmp_path).stdout
    assert "how long early feedback waits for its query" in table


def test_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    """A reader that has seen enough, such as `head`, ends the command quietly."""
    command = f"{PILOT} settings | true"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    """Output that finds no space ends the command with a line and exit 1."""
    command = f"{PILOT} settings > /dev/full"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "pilot: the output cannot be written: No space left on device\n"


def test_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`pilot --version` prints the version of the installed distribution."""
    assert worker.cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pilot, version ")
