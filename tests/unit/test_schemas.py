"""The published schemas and examples, held against the code that reads and writes events."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from worker import events
from worker.core.ledger import Spend
from worker.core.verdict import Candidate, Verdict
from worker.errors import BadRecord, DeadLetterCode
from worker.kafka import topics
from worker.settings import Settings
from worker.stream.answer import Window, render
from worker.stream.batch import SourceRecord

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas"
VALID = sorted((SCHEMAS / "examples" / "valid").iterdir())
INVALID = sorted((SCHEMAS / "examples" / "invalid").iterdir())
INPUTS = {
    "query": events.Query,
    "feedback": events.Feedback,
    "model": events.ModelRecord,
    "budget": events.BudgetRecord,
}
# What a JSON Schema cannot say: sizes in bytes.
BEYOND_SCHEMA = {"id-too-long", "task-too-long", "metadata-too-large"}


def schema(event: str) -> dict[str, Any]:
    """The schema of an event, as it is published."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{event}.schema.json").read_text("utf-8"))
    return found


def parse(event: str, value: bytes) -> Any:
    """Read a value as the worker does."""
    return events.parse_feedback(value) if event == "feedback" else events.parse(INPUTS[event], value)


def accepts(event: str, content: object) -> bool:
    """Whether the schema accepts it."""
    return bool(jsonschema.Draft7Validator(schema(event)).is_valid(content))


def test_files_are_those_that_the_code_generates() -> None:
    """A change of an event without `make schemas` fails here, with the names of the files."""
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_schemas.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.schema.json")), ids=lambda path: path.name)
def test_schemas_are_schemas(path: Path) -> None:
    """Each is valid in the dialect that it names."""
    jsonschema.Draft7Validator.check_schema(json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_examples_pass_their_schema(path: Path) -> None:
    """Whoever validates with the schema may send every valid example."""
    jsonschema.validate(json.loads(path.read_bytes()), schema(path.name.split(".")[0]))


@pytest.mark.parametrize(
    "path", [path for path in VALID if path.name.split(".")[0] in INPUTS], ids=lambda path: path.stem
)
def test_valid_examples_are_read(path: Path) -> None:
    """The worker takes every valid example, with the values that stand in it."""
    event = path.name.split(".")[0]
    stated = {name: value for name, value in json.loads(path.read_bytes()).items() if value is not None}
    read = parse(event, path.read_bytes()).model_dump()
    assert {name: read[name] for name in stated if name in read} == {n: v for n, v in stated.items() if n in read}


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_examples_are_refused_with_the_code_in_their_name(path: Path) -> None:
    """Every kind of bad value has the dead-letter code that the contract gives it.

    Whether an embedding fits is decided with the encoder's dimension, after parsing.
    """
    code, event, _ = path.stem.split("-", 2)
    if code == DeadLetterCode.INVALID_EMBEDDING:
        assert parse(event, path.read_bytes()).embedding is not None
        return
    with pytest.raises(BadRecord) as refused:
        parse(event, path.read_bytes())
    assert refused.value.code == code


@pytest.mark.parametrize(
    "path", [path for path in INVALID if path.stem.startswith("invalid_event")], ids=lambda p: p.stem
)
def test_schemas_refuse_the_invalid_events(path: Path) -> None:
    """A caller who validates finds the mistake before the worker does, except for sizes in bytes."""
    _, event, what = path.stem.split("-", 2)
    assert accepts(event, json.loads(path.read_bytes())) == (what in BEYOND_SCHEMA)


def test_a_decision_as_written_passes_its_schema() -> None:
    """What the worker writes is what the schema promises, routed and rejected, with every field present."""
    query = events.Query(query_id="q", user_id="u", text="hi", metadata={"a": "b"})
    record = SourceRecord("pilot.queries", 0, 17, 1_772_359_200_000, b"u", b"")
    window = Window(1_772_323_200, 86_400, 5_000_000_000)
    candidates = (Candidate("gpt-4", 0.9, 0.1, 20_000_000, "budget"),)
    routed = Verdict(None, candidates, "pacing", "gpt-4", 0.9, 0.1, 1.0, 20_000_000, 20_000_000, 30_000_000)
    rejected = Verdict("no_model", candidates, "pacing")
    for verdict in (routed, rejected):
        value = render(query, record, verdict, Spend(), window, version="f:1", now_s=1.0, detailed=True)
        content = json.loads(value)
        jsonschema.validate(content, schema("decision"))
        assert set(content) == set(schema("decision")["required"])


def test_dead_letter_codes_are_the_closed_list() -> None:
    """The schema of the headers lists exactly the codes that the worker can send."""
    codes = schema("dead-letter-headers")["properties"]["pilot.error.code"]["enum"]
    assert codes == [code.value for code in DeadLetterCode]


_IDS = st.sampled_from(["q-1", "alice", "", "*", "a\tb", 7, None])
_NUMBERS = st.sampled_from([0, 1, 0.5, -1, 2_000_000_000, "1", True, None])
_VALUES = {
    "query_id": _IDS,
    "user_id": _IDS,
    "model": _IDS,
    "text": st.sampled_from(["hello", "", 1, None]),
    "embedding": st.sampled_from([[], [0.5, 1], ["1"], [None], {}, None]),
    "models": st.sampled_from([[], ["gpt-4"], [""], "gpt-4", None]),
    "requires": st.sampled_from([[], ["eu"], [1], None]),
    "metadata": st.sampled_from([{}, {"a": "b"}, {"a": 1}, [], None]),
    "tags": st.sampled_from([[], ["eu"], "eu", None]),
    "status": st.sampled_from(["ok", "error", "timeout", "lost", None]),
    "enabled": st.sampled_from([True, False, 1, None]),
    "task": st.sampled_from(["t", "", 1, None]),
    "source": st.sampled_from(["judge", 1, None]),
}


_GOOD: dict[str, dict[str, Any]] = {
    "query": {"query_id": "q-1", "user_id": "alice", "text": "hello"},
    "feedback": {"query_id": "q-1", "user_id": "alice", "reward": 1},
    "model": {"model": "gpt-4", "input_usd_per_mtok": 10, "output_usd_per_mtok": 30.5},
    "budget": {"limit_usd": 5},
}


def _contents(event: str) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: _VALUES.get(name, _NUMBERS) for name in INPUTS[event].model_fields}
    some = st.fixed_dictionaries({}, optional=fields)
    without = st.sets(st.sampled_from(sorted(fields)), max_size=1)
    few = st.builds(lambda changed: dict(list(changed.items())[:3]), some)
    return st.builds(
        lambda changed, gone: {n: v for n, v in {**_GOOD[event], **changed}.items() if n not in gone}, few, without
    )


@given(st.sampled_from(sorted(INPUTS)).flatmap(lambda event: st.tuples(st.just(event), _contents(event))))
def test_schema_and_worker_agree(case: tuple[str, dict[str, Any]]) -> None:
    """Over good and bad values of every field, the schema accepts exactly what the worker reads."""
    event, content = case
    try:
        parse(event, json.dumps(content).encode())
        read = True
    except BadRecord:
        read = False
    assert accepts(event, content) == read


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The AsyncAPI document, as it is published."""
    found: dict[str, Any] = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text("utf-8"))
    return found


class TestAsyncApi:
    """The document over all topics."""

    def test_has_every_public_topic_and_no_changelog(self, document: dict[str, Any]) -> None:
        """Its channels are the topics that a deployment creates, less its internal ones."""
        changelogs = {topic.name for topic in topics.declared(Settings()) if topic.name.endswith("-changelog")}
        public = {topic.name for topic in topics.declared(Settings())} - changelogs
        prefix = document["components"]["parameters"]["prefix"]["default"]
        assert {channel["address"].replace("{prefix}", prefix) for channel in document["channels"].values()} == public

    def test_says_who_sends_what(self, document: dict[str, Any]) -> None:
        """Seen from the worker: it sends decisions and dead letters and receives the rest."""
        sent = {op["channel"]["$ref"] for op in document["operations"].values() if op["action"] == "send"}
        assert sent == {"#/channels/decisions", "#/channels/dead-letters"}
        assert len(document["operations"]) == len(document["channels"])

    def test_every_reference_resolves(self, document: dict[str, Any]) -> None:
        """Inside the document, and to the schemas beside it."""
        for reference in _references(document):
            file, _, pointer = reference.partition("#")
            node = json.loads((SCHEMAS / file).read_text("utf-8")) if file else document
            for part in filter(None, pointer.split("/")):
                node = node[part]

    def test_every_message_has_a_key_and_examples(self, document: dict[str, Any]) -> None:
        """A caller sees what to put into a record's key, and a whole event to start from."""
        for name, message in document["components"]["messages"].items():
            assert "murmur2" in message["bindings"]["kafka"]["key"]["description"]
            assert message.get("examples") or name == "dead-letter"


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _references(item)
