"""`pilot settings`."""

from __future__ import annotations

import click

from worker.cli.output import Row, json_option, show
from worker.cli.root import settings_with_origins

_HEADINGS = {name: name for name in ("setting", "value", "origin", "meaning")}


@click.command()
@json_option
def settings(*, as_json: bool) -> None:
    """Show the effective settings, their meaning and origin."""
    from worker.settings import ENV_PREFIX, Settings

    effective, origins = settings_with_origins()
    values = effective.model_dump(mode="json")
    values["worker_id"] = effective.effective_worker_id
    rows: list[Row] = [
        {
            "setting": ENV_PREFIX + name.upper(),
            "value": values[name],
            "origin": origins[name],
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    show(rows, _HEADINGS, as_json=as_json, empty="no settings")
