"""An operator's commands on a real deployment: follow, explain, check, forget; and what logs and traces tell."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.broker.support import READY_S, Deployment, Row, WorkerProcess, deployed, environment, unique, until
from worker.kafka import local
from worker.settings import Settings

MODELS = ({"model": "only", "input_usd": 1.0, "output_usd": 2.0},)

MARKER = "the prompt that stays between us"
BEGINNING = "2020-01-01T00:00:00Z"


class Collector:
    """An OTLP collector over HTTP that keeps what it gets."""

    def __init__(self) -> None:
        requests = self._requests = list[bytes]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                zipped = self.headers.get("Content-Encoding") == "gzip"
                requests.append(gzip.decompress(body) if zipped else body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def spans(self, trace_id: str) -> list[Span]:
        """Every span of one trace that came so far."""
        sent = [ExportTraceServiceRequest.FromString(body) for body in list(self._requests)]
        scopes = [scope for request in sent for resource in request.resource_spans for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans if span.trace_id.hex() == trace_id]

    def text(self) -> str:
        return b"".join(self._requests).decode(errors="replace")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def told(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, Collector]]:
    """A worker at debug level with users hashed and tracing on, and what it was asked."""
    folder = tmp_path_factory.mktemp("told")
    collector = Collector()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
            patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
            patch.setenv("OTEL_SERVICE_NAME", "told")
            more = {"log_level": "debug", "log_format": "json", "log_users": "hashed", "tracing": "otlp"}
            with deployed(broker, folder, MODELS, **more) as deployment:
                query_id, _ = deployment.client.query("warm-up", text="which loads the encoder")
                until(lambda: deployment.client.seen(query_id), "the first text", READY_S)
                yield deployment, collector
    finally:
        collector.close()


def pilot(settings: Settings, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments], env=environment(settings, more.pop("http_port", 0), **more),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def objects(text: str) -> list[Row]:
    return [json.loads(line) for line in text.splitlines()]


class TestTail:
    """`pilot tail`."""

    def test_programs_get_the_event_a_line(self, standard: Deployment) -> None:
        """Each line is the record's own JSON object, of the asked user only, as many as asked for."""
        ann, bob = unique("ann"), unique("bob")
        mine = [standard.client.decide(ann) for _ in range(2)]
        standard.client.decide(bob)
        limited = ("--user", ann, "--limit", "2", "--json")
        done = pilot(standard.settings, "tail", "decisions", "--since", BEGINNING, *limited)
        assert objects(done.stdout) == mine
        assert done.stderr == "", "the end of following is quiet"

    def test_people_get_a_line_a_record(self, standard: Deployment) -> None:
        """User, query, outcome and model stand in one line under a heading."""
        user = unique("ann")
        decision = standard.client.decide(user)
        heading, line = standard.pilot(
            "tail", "decisions", "--since", BEGINNING, "--user", user, "--limit", "1"
        ).splitlines()
        assert heading.split()[:3] == ["decided_at", "user_id", "query_id"]
        assert line.split()[1:5] == [user, decision["query_id"], "routed", decision["model"]]

    def test_feedback_and_dead_letters_are_followed_too(self, standard: Deployment) -> None:
        """Feedback as it was given; dead letters as their list shows them."""
        user = unique("ann")
        query_id = standard.client.route(user, "small")
        standard.client.feedback(user, query_id, cost_usd=0.5)
        sent = standard.client.send("feedback", user.encode(), b"not json")
        standard.client.letters(sent)
        common = ("--since", BEGINNING, "--user", user, "--limit", "1", "--json")
        (feedback,) = objects(standard.pilot("tail", "feedback", *common))
        (letter,) = objects(standard.pilot("tail", "dead-letters", *common))
        assert feedback == {"query_id": query_id, "user_id": user, "cost_usd": 0.5}
        assert (letter["code"], letter["source_offset"]) == ("invalid_json", sent.offset)

    def test_it_follows_what_comes_from_now_on(self, standard: Deployment) -> None:
        """Without --since the past is left out and a later record is shown as soon as it is there."""
        user = unique("ann")
        standard.client.decide(user)
        with subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "tail", "decisions", "--user", user, "--limit", "1", "--json"],
            env=environment(standard.settings, 0), stdout=subprocess.PIPE, text=True,
        ) as following:  # fmt: skip
            later: list[str] = []

            def ended() -> bool:
                later.append(standard.client.decide(user)["query_id"])
                return following.poll() is not None

            until(ended, "a followed decision")
            assert following.stdout is not None
            (shown,) = objects(following.stdout.read())
        assert shown["query_id"] in later

    def test_a_wrong_time_is_exit_2(self, standard: Deployment) -> None:
        """A time without zone is refused."""
        assert pilot(standard.settings, "tail", "decisions", "--since", "2026-01-01T00:00:00").returncode == 2


class TestExplain:
    """`pilot explain`."""

    def test_it_joins_decision_candidates_and_feedback(self, standard: Deployment) -> None:
        """One object with the decision, every candidate with its reason, and the feedback that came."""
        client = standard.client
        user = client.user(5.0)
        decision = client.decide(user, models=["small", "large"])
        client.feedback(user, decision["query_id"], reward=1.0)
        client.settle(user, decision["query_id"], cost_usd=0.25)
        told = json.loads(standard.pilot("explain", decision["query_id"], "--json"))
        assert told["decision"] == decision
        assert [part.get("cost_usd", part.get("reward")) for part in told["feedback"]] == [1.0, 0.25]
        why = {row["model"]: row["why"] for row in told["candidates"]}
        assert why[decision["model"]] == "chosen"
        assert why["narrow"] == "not in the query's list of models"
        assert set(why) == {candidate["model"] for candidate in decision["candidates"]}

    def test_people_read_the_same(self, standard: Deployment) -> None:
        """Outcome, budget with shadow price, and a row a candidate."""
        user = standard.client.user(5.0)
        decision = standard.client.decide(user)
        told = standard.pilot("explain", decision["query_id"])
        assert told.startswith(f"{decision['query_id']} of {user}: routed to {decision['model']}, ")
        assert "budget 5 USD from " in told
        assert "shadow price " in told
        assert "no feedback" in told

    def test_one_id_of_two_users_needs_the_user(self, standard: Deployment) -> None:
        """An ambiguous id is refused with the users' names, and found with --user."""
        ann, bob, query_id = unique("ann"), unique("bob"), unique("q")
        standard.client.decide(ann, query_id)
        standard.client.query(bob, query_id)
        standard.client.decisions(query_id, 2)
        refused = pilot(standard.settings, "explain", query_id)
        assert (refused.returncode, ann in refused.stderr, bob in refused.stderr) == (1, True, True)
        assert json.loads(standard.pilot("explain", query_id, "--user", bob, "--json"))["decision"]["user_id"] == bob

    def test_an_unknown_id_is_exit_1(self, standard: Deployment) -> None:
        """The line says where it was looked for."""
        refused = pilot(standard.settings, "explain", "nobody-asked-this")
        assert refused.returncode == 1
        assert standard.settings.topic("decisions") in refused.stderr


class TestDoctor:
    """`pilot doctor`."""

    def test_a_healthy_deployment_is_exit_0(self, broker: str, tmp_path: Path) -> None:
        """Every check passes, beside a running worker whose port is its own."""
        # Others put records of the shared deployment on wrong partitions, which is what a check looks for.
        with deployed(broker, tmp_path, MODELS) as own:
            done = pilot(own.settings, "doctor", "--json", http_port=own.worker.http_port)
        rows = {row["check"]: row for row in json.loads(done.stdout)}
        assert {name for name, row in rows.items() if not row["ok"]} == set(), rows
        assert done.returncode == 0
        assert "a worker answers, ready" in rows["port"]["detail"]
        assert rows["workers"]["detail"].startswith("1 in group ")

    def test_each_wrong_thing_is_named(self, standard: Deployment, tmp_path: Path) -> None:
        """One report names a taken port, a missing artefact, a wrong dimension and misplaced records; exit code 1."""
        user = unique("ann")
        home = standard.client.send("queries", user.encode(), b"{}")
        standard.client.send("queries", user.encode(), b"{}", partition=(home.partition + 1) % 4)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            wrong = {"http_port": taken.getsockname()[1], "prior": tmp_path / "none.npz", "embedding_dim": 7}
            done = pilot(standard.settings, "doctor", "--json", **wrong)
        rows = {row["check"]: row for row in json.loads(done.stdout)}
        assert done.returncode == 1
        assert {name for name, row in rows.items() if not row["ok"]} == {"artefact", "encoder", "port", "partitioner"}
        assert "PILOT_PRIOR" in rows["artefact"]["detail"]
        assert "partitioner=murmur2_random" in rows["partitioner"]["detail"]
        assert done.stderr == "pilot: wrong: artefact, encoder, port, partitioner\n"

    def test_without_a_broker_the_rest_is_still_told(self, tmp_path: Path) -> None:
        """What needs no broker is checked; what does is left out."""
        settings = Settings(bootstrap_servers=f"127.0.0.1:{local.free_port()}", data_dir=tmp_path)
        done = pilot(settings, "doctor", "--json")
        rows = {row["check"]: row["ok"] for row in json.loads(done.stdout)}
        assert done.returncode == 1
        assert rows == {
            "versions": True, "data dir": True, "artefact": True, "encoder": True, "port": True, "broker": False,
        }  # fmt: skip


class TestBadSettings:
    """A worker that cannot run as asked says so in one line that names the setting, with exit code 2."""

    @pytest.mark.parametrize(
        ("setting", "value", "line"),
        [
            ("colour", "red", "PILOT_COLOUR: unknown setting"),
            ("policy", "thrifty", "PILOT_POLICY='thrifty': "),
            ("prior", "/nowhere/prior.npz", "PILOT_PRIOR: "),
            ("data_dir", "/proc/nowhere", "PILOT_DATA_DIR=/proc/nowhere: "),
            ("encoder", "./nowhere", "PILOT_ENCODER=./nowhere: "),
            ("embedding_dim", 7, "PILOT_ENCODER=all-MiniLM-L6-v2 with PILOT_EMBEDDING_DIM=7 "),
            ("http_host", "192.0.2.1", "PILOT_HTTP_HOST=192.0.2.1: "),
            ("sasl_mechanism", "PLAIN", "PILOT_SASL_MECHANISM: "),
        ],
    )
    def test_a_bad_value(self, standard: Deployment, setting: str, value: Any, line: str) -> None:
        """Unknown key, bad value, a path or an address that cannot be used."""
        refused = pilot(standard.settings, "worker", **{setting: value})
        assert refused.returncode == 2, refused.stderr
        last = refused.stderr.strip().splitlines()[-1]
        assert last.startswith(f"pilot: {line}")

    def test_a_missing_certificate(self, standard: Deployment) -> None:
        """The file is named, not the handshake that it was for."""
        refused = pilot(standard.settings, "worker", security_protocol="SSL", ssl_cafile="/nowhere/ca.pem")
        assert (refused.returncode, refused.stderr) == (
            2, "pilot: PILOT_SSL_CAFILE=/nowhere/ca.pem: No such file or directory\n",
        )  # fmt: skip

    def test_a_taken_port(self, standard: Deployment) -> None:
        """The port of another worker cannot be had twice."""
        refused = pilot(standard.settings, "worker", http_port=standard.worker.http_port)
        assert refused.returncode == 2
        assert f"PILOT_HTTP_PORT={standard.worker.http_port}: " in refused.stderr.strip().splitlines()[-1]


class TestForget:
    """`pilot users forget`."""

    def test_a_running_worker_forbids_it(self, standard: Deployment) -> None:
        """State has one writer: with a worker in the group nothing is written."""
        user = standard.client.user(5.0)
        refused = pilot(standard.settings, "users", "forget", user, session_timeout_s=2)
        assert refused.returncode == 1
        assert "has members" in refused.stderr
        assert standard.client.account(user) is not None

    def test_everyone_else_is_nobody(self, standard: Deployment) -> None:
        """`*` cannot be forgotten."""
        assert pilot(standard.settings, "users", "forget", "*").returncode == 2

    def test_nothing_of_the_user_is_left_and_the_others_keep_everything(self, broker: str, tmp_path: Path) -> None:
        """After it a worker knows no decision, spend, feedback or budget of the user; repeating it is safe."""
        with deployed(broker, tmp_path, MODELS, session_timeout_s=2.0) as deployment:
            client = deployment.client
            ann, bob = client.user(5.0), client.user(5.0)
            asked = {user: client.decide(user)["query_id"] for user in (ann, bob)}
            for user, query_id in asked.items():
                client.settle(user, query_id, cost_usd=0.5, reward=1.0)
            early = client.feedback(ann, "not yet asked", reward=1.0)
            client.committed(early)
            until(lambda: client.learned("only")["observations"] == 2, "learning")
            deployment.worker.stop()
            done = deployment.pilot("users", "forget", ann)
            assert done.startswith(f"{ann}: ")
            assert done.endswith("1 budget windows, 1 budgets forgotten\n")
            again = deployment.pilot("users", "forget", ann)
            assert again == f"{ann}: 0 queries, 0 budget windows, 0 budgets forgotten\n"
            assert set(client.budgets()) == {bob}
            worker = WorkerProcess(deployment.settings, tmp_path / "second.log", worker_id="second")
            try:
                worker.ready(for_text=False)
                anew = client.decide(ann, unique("anew"))
                assert anew["budget"] is None
                repeated, _ = client.query(ann, asked[ann])
                client.decisions(repeated, 2)
                assert client.decisions(asked[ann])[1].value != client.decisions(asked[ann])[0].value
                assert client.account(bob)["settled_usd"] == 0.5
                assert client.learned("only")["observations"] == 2
            finally:
                worker.stop()


class TestLogsAndTraces:
    """What leaves the worker beside Kafka records."""

    def test_a_trace_goes_from_query_to_decision(self, told: tuple[Deployment, Collector]) -> None:
        """The query's `traceparent` is the parent of its span, which has three steps, and comes with the decision."""
        deployment, collector = told
        trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        header = f"00-{trace_id}-{parent}-01".encode()
        query_id, _ = deployment.client.query("ann", text=MARKER, headers=[("traceparent", header)])
        (record,) = deployment.client.decisions(query_id)
        assert dict(record.headers)["traceparent"] == header
        spans = until(lambda: found if len(found := collector.spans(trace_id)) == 4 else None, "four spans")
        by_name = {span.name: span for span in spans}
        assert set(by_name) == {"route", "encode", "decide", "write"}
        root = by_name.pop("route")
        assert root.parent_span_id.hex() == parent
        assert {span.parent_span_id for span in by_name.values()} == {root.span_id}
        attributes = {attribute.key: attribute.value.string_value for attribute in root.attributes}
        assert attributes["pilot.query_id"] == query_id
        assert attributes["pilot.model"] == "only"
        assert attributes["pilot.user_id"] not in ("", "ann")
        assert "told" in collector.text(), "OTEL_SERVICE_NAME counts"

    def test_no_prompt_leaves(self, told: tuple[Deployment, Collector]) -> None:
        """A prompt is in no log line at debug, metric or span, not even that of a query that cannot be used."""
        deployment, collector = told
        client = deployment.client
        query_id, _ = client.query("ann", text=MARKER, metadata={"note": MARKER})
        client.decisions(query_id)
        client.code(
            client.send("queries", b"ann", json.dumps({"query_id": "q", "user_id": 1, "text": MARKER}).encode())
        )
        client.code(client.send("queries", b"ann", f'{{"text": "{MARKER}'.encode()))
        lines = until(lambda: [line for line in objects(deployment.worker.said()) if line.get("query_id") == query_id])
        assert lines[0]["event"] == "decision"
        assert lines[0]["user_id"] != "ann"
        everything = deployment.worker.said() + deployment.worker.get("/metrics")[1] + collector.text()
        assert MARKER not in everything
        assert '"ann"' not in everything
