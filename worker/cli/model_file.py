"""The YAML file of `pilot models apply`: a list `models` of the fields of the models topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from worker.errors import UsageError
from worker.events import ModelRecord


def read_models(path: Path) -> dict[str, ModelRecord]:
    """The records of the file by model, in its order.

    Raises:
        UsageError: names file, place and reason; a misspelt field is an error here.
    """
    records: dict[str, ModelRecord] = {}
    for number, entry in enumerate(_entries(path), start=1):
        record = _record(f"{path}: models[{number}]", entry)
        if record.model in records:
            raise UsageError(f"{path}: models[{number}]: {record.model!r} is there twice")
        records[record.model] = record
    return records


def _entries(path: Path) -> list[Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    except RecursionError:
        raise UsageError(f"{path}: not YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # the second of what looks like a date and is none
        said = " ".join(str(error).split())
        raise UsageError(f"{path}: not YAML: {said}") from None
    entries = content.get("models") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path}: needs `models:` with a list of at least one model")
    return entries


def _record(place: str, entry: Any) -> ModelRecord:
    if not isinstance(entry, dict):
        raise UsageError(f"{place}: not a mapping of fields")
    unknown = [str(name) for name in entry if name not in ModelRecord.model_fields]
    if unknown:
        raise UsageError(f"{place}: unknown field {unknown[0]!r}, known are {', '.join(ModelRecord.model_fields)}")
    try:
        return ModelRecord.model_validate({name: value for name, value in entry.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{place}.{where}: {first['msg']}") from None
