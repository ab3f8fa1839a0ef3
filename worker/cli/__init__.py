"""The command line `pilot`: one file a command group; this one maps failures to exit codes.

Everything heavy is imported inside the commands, so that help and errors are quick.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence

import click

from worker.cli.root import pilot
from worker.errors import ExitCode, OperationFailed, UsageError, WorkerMustStop

_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Entry point of the console script."""
    # Its retries would hide our one line; `pilot worker` sets up its own logging instead.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a failure is one line on stderr."""
    try:
        result = pilot.main(args=list(arguments), prog_name="pilot", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (UsageError, OperationFailed, WorkerMustStop) as error:
        print(f"pilot: {error}", file=sys.stderr)
        return _code(error)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _silence_stdout()
        return ExitCode.FAILED
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _silence_stdout()
        print(f"pilot: the output cannot be written: {error.strerror}", file=sys.stderr)
        return ExitCode.FAILED
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    return result if isinstance(result, int) else ExitCode.OK


def _silence_stdout() -> None:
    """What it still holds would be written at the end of the process, fail again, and change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _code(error: UsageError | OperationFailed | WorkerMustStop) -> ExitCode:
    if isinstance(error, WorkerMustStop):
        return error.code
    return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED
