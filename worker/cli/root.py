"""The root command: its sub-commands by name, each imported when it is asked for, and the settings they share."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from worker.settings import Settings, load

# Where each command is, and its line in the help, which must not import what commands need.
_COMMANDS = {
    "worker": ("worker.cli.worker:worker", "Run a worker."),
    "topics": ("worker.cli.topics:topics", "Create all topics, or check them."),
    "models": ("worker.cli.models:models", "The models that can be chosen."),
    "budgets": ("worker.cli.budgets:budgets", "The users' limits per budget window."),
    "dead-letters": ("worker.cli.dead_letters:dead_letters", "Records that could not be processed."),
    "tail": ("worker.cli.tail:tail", "Follow decisions, feedback or dead letters."),
    "explain": ("worker.cli.explain:explain", "Why a query was decided as it was."),
    "users": ("worker.cli.users:users", "Forget users."),
    "doctor": ("worker.cli.doctor:doctor", "Check everything that a worker needs."),
    "pretrain": ("worker.cli.pretrain:pretrain", "Build a prior artefact."),
    "evaluate": ("worker.evaluate.command:evaluate", "Compare policies on a table of scores and costs."),
    "demo": ("worker.demo.command:demo", "The main job on real prompts, from nothing to report."),
    "kafka": ("worker.cli.kafka:kafka", "A local Apache Kafka for development."),
    "settings": ("worker.cli.settings:settings", "The effective settings, their meaning and origin."),
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
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


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
