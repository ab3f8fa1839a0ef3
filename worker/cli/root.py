"""The root command: its sub-commands by name, each imported when it is asked for, and the settings they share."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from worker.settings import Settings, load

_COMMANDS = {
    "worker": "worker.cli.worker:worker",
    "topics": "worker.cli.topics:topics",
    "models": "worker.cli.models:models",
    "budgets": "worker.cli.budgets:budgets",
    "dead-letters": "worker.cli.dead_letters:dead_letters",
    "pretrain": "worker.cli.pretrain:pretrain",
    "evaluate": "worker.evaluate.command:evaluate",
    "demo": "worker.demo.command:demo",
    "kafka": "worker.cli.kafka:kafka",
    "settings": "worker.cli.settings:settings",
}


class _LazyGroup(click.Group):
    """A group that imports a sub-command's module only when the sub-command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings file. Default: pilot.toml in this folder, where there is one.",
)
@click.version_option(package_name="pilot-router", prog_name="pilot")
@click.pass_context
def pilot(ctx: click.Context, config: Path | None) -> None:
    """Decides, query by query, which LLM answers; learns from feedback, keeps budgets."""
    ctx.obj = config


def effective_settings() -> Settings:
    """The settings of the running command.

    Raises:
        UsageError: the line names the setting or file.
    """
    return settings_with_origins()[0]


def settings_with_origins() -> tuple[Settings, dict[str, str]]:
    """The settings of the running command and where each came from."""
    config: Any = click.get_current_context().find_root().obj
    return load(config)
