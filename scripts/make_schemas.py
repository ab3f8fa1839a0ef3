"""Writes `schemas/`: a JSON Schema for each event and an AsyncAPI 3 document over all, from the code.

python scripts/make_schemas.py            writes what has changed
python scripts/make_schemas.py --check    writes nothing, exits 1 and names the files that differ
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter

from worker.errors import DeadLetterCode
from worker.events import BudgetRecord, Decision, Feedback, ModelRecord, Query
from worker.kafka import topics
from worker.settings import Settings

Schema = dict[str, Any]

FOLDER = Path(__file__).parent.parent / "schemas"
EXAMPLES = FOLDER / "examples" / "valid"
DIALECT = "http://json-schema.org/draft-07/schema#"  # the one AsyncAPI tools read

# What the classes check across fields, in the schema's words. Null counts as absent.
_QUERY_RULES: Schema = {
    "anyOf": [
        {"required": ["text"], "properties": {"text": {"type": "string"}}},
        {"required": ["embedding"], "properties": {"embedding": {"type": "array"}}},
    ]
}
_INPUT_TOKENS: Schema = {"required": ["input_tokens"], "properties": {"input_tokens": {"type": "integer"}}}
_OUTPUT_TOKENS: Schema = {"required": ["output_tokens"], "properties": {"output_tokens": {"type": "integer"}}}
_FEEDBACK_RULES: Schema = {
    "anyOf": [
        {"required": ["reward"], "properties": {"reward": {"type": "number"}}},
        {"required": ["cost_usd"], "properties": {"cost_usd": {"type": "number"}}},
        _INPUT_TOKENS,
        {"required": ["status"], "properties": {"status": {"enum": ["error", "timeout"]}}},
    ],
    "allOf": [{"if": _INPUT_TOKENS, "then": _OUTPUT_TOKENS}, {"if": _OUTPUT_TOKENS, "then": _INPUT_TOKENS}],
}
_INPUTS: dict[str, tuple[type[BaseModel], Schema]] = {
    "query": (Query, _QUERY_RULES),
    "feedback": (Feedback, _FEEDBACK_RULES),
    "model": (ModelRecord, {}),
    "budget": (BudgetRecord, {}),
}


def main() -> int:
    """Write or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file differs")
    check = parser.parse_args().check
    differing = [path for path, text in files().items() if not path.exists() or path.read_text("utf-8") != text]
    for path in differing:
        print(f"{path.relative_to(FOLDER.parent)}: {'differs from the code' if check else 'written'}")
        if not check:
            path.write_text(files()[path], "utf-8")
    return 1 if check and differing else 0


def files() -> dict[Path, str]:
    """Every generated file with the content it must have."""
    schemas = {name: _input(kind, rules) for name, (kind, rules) in _INPUTS.items()}
    schemas["decision"] = TypeAdapter(Decision).json_schema(mode="serialization")
    schemas["dead-letter-headers"] = _dead_letter_headers()
    written = {FOLDER / f"{name}.schema.json": _as_json(schema) for name, schema in schemas.items()}
    document = yaml.safe_dump(_asyncapi(), sort_keys=False, allow_unicode=True, width=100)
    return {**written, FOLDER / "asyncapi.yaml": document}


def _as_json(schema: Schema) -> str:
    return json.dumps({"$schema": DIALECT, **_without_titles(schema)}, indent=2, ensure_ascii=False) + "\n"


def _input(kind: type[BaseModel], rules: Schema) -> Schema:
    schema = kind.model_json_schema()
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        nullable = any(choice.get("type") == "null" for choice in field.get("anyOf", ()))
        if name not in required and not nullable:
            schema["properties"][name] = _or_null(field)
    return {**schema, **rules}


def _or_null(field: Schema) -> Schema:
    """The same field, null allowed: null means absent, and the default holds."""
    outside: Schema = {key: field.pop(key) for key in ("default", "description") if key in field}
    return {"anyOf": [field, {"type": "null"}], **outside}


def _without_titles(node: Any, *, names: bool = False) -> Any:
    """Without the titles that repeat a field's name; `names`: the keys of this node are names, not keywords."""
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if names or key != "title" or "properties" in node}
    return {key: _without_titles(value, names=key in ("properties", "$defs")) for key, value in kept.items()}


def _dead_letter_headers() -> Schema:
    number = {"type": "string", "pattern": "^-?[0-9]+$", "description": "decimal text"}
    codes = {"enum": [code.value for code in DeadLetterCode], "description": "why; the list is closed"}
    properties = {
        "pilot.error.code": codes,
        "pilot.error.message": {"type": "string", "description": "names what is wrong, for people"},
        "pilot.source.topic": {"type": "string"},
        "pilot.source.partition": number,
        "pilot.source.offset": number,
        "pilot.source.timestamp": {**number, "description": "broker time in ms since 1970, decimal text"},
    }
    return {
        "title": "DeadLetterHeaders",
        "description": "Headers after the original ones; key and value are the original's, byte for byte.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


# channel: (what the worker does, message, key, what it is for)
_CHANNELS = {
    "queries": ("receive", "query", "user_id", "Queries to route."),
    "decisions": ("send", "decision", "user_id", "One decision a query; the same bytes again for a repeated query."),
    "feedback": ("receive", "feedback", "user_id", "What became of a query: cost, tokens, rating. May come in parts."),
    "models": ("receive", "model", "model", "The models that can be chosen. A tombstone removes one."),
    "budgets": ("receive", "budget", "user_id, or * for everyone else", "Limits per window. A tombstone removes one."),
    "dead-letters": (
        "send",
        "dead-letter",
        "as received",
        "Records that could not be used, untouched, with the reason.",
    ),
}
_PARTITIONING = "UTF-8; partitions are murmur2 of it, as Java clients do (librdkafka: partitioner=murmur2_random)"


def _asyncapi() -> Schema:
    found = {topic.name: topic for topic in topics.declared(Settings())}
    channels = {name: _channel(name, found[Settings().topic(name)]) for name in _CHANNELS}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "PILOT Router",
            "version": version("pilot-router"),
            "description": "Topics of a worker that decides, query by query, which model answers.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": dict(_operation(name) for name in _CHANNELS),
        "components": {
            "messages": {message: _message(name, message) for name, (_, message, _, _) in _CHANNELS.items()},
            "parameters": {
                "prefix": {"description": "PILOT_TOPIC_PREFIX, ends with a dot", "default": Settings().topic_prefix}
            },
        },
    }


def _channel(name: str, topic: topics.Topic) -> Schema:
    _, message, _, meaning = _CHANNELS[name]
    config: Schema = {"cleanup.policy": topic.config["cleanup.policy"].split(",")}
    config |= {key: int(topic.config[key]) for key in ("retention.ms", "max.message.bytes") if key in topic.config}
    partitions = topics.DEFAULT_PARTITIONS if topic.partitioned else 1
    binding = {"partitions": partitions, "topicConfiguration": config, "bindingVersion": "0.5.0"}
    return {
        "address": f"{{prefix}}{name}",
        "description": meaning,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "parameters": {"prefix": {"$ref": "#/components/parameters/prefix"}},
        "bindings": {"kafka": binding},
    }


def _operation(name: str) -> tuple[str, Schema]:
    action, message, _, meaning = _CHANNELS[name]
    channel = f"#/channels/{name}"
    title = f"{action}-{message}"
    messages = [{"$ref": f"{channel}/messages/{message}"}]
    return title, {"action": action, "channel": {"$ref": channel}, "summary": meaning, "messages": messages}


def _message(channel: str, message: str) -> Schema:
    key = {"type": "string", "description": f"{_CHANNELS[channel][2]}. {_PARTITIONING}"}
    bindings = {"kafka": {"key": key, "bindingVersion": "0.5.0"}}
    if message == "dead-letter":
        headers = {"$ref": "./dead-letter-headers.schema.json"}
        untouched = {"description": "the original value, untouched, whatever it is"}
        return {
            "contentType": "application/octet-stream",
            "headers": headers,
            "payload": untouched,
            "bindings": bindings,
        }
    examples = [
        {"name": path.name.removesuffix(".json").replace(".", "-"), "payload": json.loads(path.read_text("utf-8"))}
        for path in sorted(EXAMPLES.glob(f"{message}.*.json"))
        if "embedding" not in path.name
    ]
    return {"payload": {"$ref": f"./{message}.schema.json"}, "bindings": bindings, "examples": examples}


if __name__ == "__main__":
    sys.exit(main())
