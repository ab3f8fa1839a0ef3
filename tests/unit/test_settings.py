"""Settings: where they come from and what is refused."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from worker import settings
from worker.errors import UsageError
from worker.settings import Settings


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder without a pilot.toml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(config: Path | None = None, **environ: str) -> Settings:
    return settings.load(config, environ)[0]


def complaint(config: Path | None = None, **environ: str) -> str:
    """What the user reads."""
    with pytest.raises(UsageError) as refused:
        settings.load(config, environ)
    return str(refused.value)


CONTRACT_DEFAULTS: dict[str, Any] = {
    "bootstrap_servers": "127.0.0.1:9092",
    "topic_prefix": "pilot.",
    "preset": "default",
    "policy": "pacing",
    "quality_floor": 0.95,
    "reward_model": "coupled",
    "exploration_rate": 0,
    "learning_share": 0.1,
    "reserve": "quantile",
    "reserve_quantile": 0.95,
    "fallback": "reject",
    "budget_window_s": 86400,
    "budget_window_offset_s": 0,
    "decision_ttl_s": 86400,
    "park_s": 300,
    "prior": None,
    "encoder": "all-MiniLM-L6-v2",
    "embedding_dim": 384,
    "decision_detail": "full",
    "http_host": "127.0.0.1",
    "http_port": 8080,
}


def test_defaults_are_those_of_the_contract() -> None:
    """Without any source every public setting has its documented value."""
    found = load().model_dump()
    assert {name: found[name] for name in CONTRACT_DEFAULTS} == CONTRACT_DEFAULTS


def test_every_setting_has_a_meaning() -> None:
    """`pilot settings` shows one for each."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


class TestSources:
    """Environment over file over preset over default."""

    def test_the_environment_wins_over_the_file(self, empty_folder: Path) -> None:
        """And the file over the default; each setting knows where it came from."""
        file = empty_folder / "some.toml"
        file.write_text('policy = "zcl"\nhttp_port = 1\npark_s = 7\n')
        found, origins = settings.load(file, {"PILOT_HTTP_PORT": "2"})
        assert (found.http_port, found.park_s, found.policy, found.fallback) == (2, 7, "zcl", "reject")
        chosen = {name: origins[name] for name in ("http_port", "park_s", "policy", "fallback")}
        assert chosen == {"http_port": "environment", "park_s": "file", "policy": "file", "fallback": "default"}

    def test_the_file_of_the_working_directory_is_read(self, empty_folder: Path) -> None:
        """`pilot.toml` needs no `--config`."""
        (empty_folder / "pilot.toml").write_text("http_port = 9000\n")
        assert load().http_port == 9000

    def test_a_named_file_replaces_it(self, empty_folder: Path) -> None:
        """`--config` is not merged with `pilot.toml`."""
        (empty_folder / "pilot.toml").write_text("http_port = 9000\n")
        other = empty_folder / "other.toml"
        other.write_text("park_s = 5\n")
        assert load(other).http_port == 8080

    def test_a_preset_sets_what_nobody_else_did(self) -> None:
        """`paper` brings its policy, and says that it did."""
        found, origins = settings.load(None, {"PILOT_PRESET": "paper"})
        assert (found.policy, origins["policy"]) == ("zcl", "preset")

    def test_explicit_settings_win_over_the_preset(self) -> None:
        """Whatever the source."""
        found, origins = settings.load(None, {"PILOT_PRESET": "paper", "PILOT_POLICY": "pacing"})
        assert (found.policy, origins["policy"]) == ("pacing", "environment")

    def test_an_empty_variable_counts_as_unset(self) -> None:
        """As compose files write it."""
        assert load(PILOT_HTTP_PORT="").http_port == 8080

    def test_other_variables_are_not_ours(self) -> None:
        """Only names that begin with PILOT_ are looked at."""
        assert load(HTTP_PORT="1", PATH="/bin").http_port == 8080

    def test_every_setting_has_an_origin(self) -> None:
        """Also the ones that nobody touched."""
        assert settings.load(None, {})[1] == dict.fromkeys(Settings.model_fields, "default")


class TestRefused:
    """A wrong setting stops the command, and the line names it."""

    def test_an_unknown_variable(self) -> None:
        """A typing error is not silently ignored."""
        assert complaint(PILOT_POLCY="zcl") == "PILOT_POLCY: unknown setting"

    def test_an_unknown_key_of_the_file(self, empty_folder: Path) -> None:
        """The same for the file, by the key's own name."""
        file = empty_folder / "a.toml"
        file.write_text("polcy = 'zcl'\n")
        assert complaint(file) == "polcy: unknown setting"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PILOT_POLICY", "greedy"),
            ("PILOT_PRESET", "fast"),
            ("PILOT_RESERVE", "worst-case"),
            ("PILOT_FALLBACK", "best"),
            ("PILOT_DECISION_DETAIL", "none"),
            ("PILOT_REWARD_MODEL", "paper"),
            ("PILOT_HTTP_PORT", "65536"),
            ("PILOT_HTTP_PORT", "eighty"),
            ("PILOT_QUALITY_FLOOR", "0"),
            ("PILOT_QUALITY_FLOOR", "1.1"),
            ("PILOT_EXPLORATION_RATE", "-0.1"),
            ("PILOT_RESERVE_QUANTILE", "1"),
            ("PILOT_LEARNING_SHARE", "0"),
            ("PILOT_ALPHA", "-1"),
            ("PILOT_ALPHA", "nan"),
            ("PILOT_PARK_S", "inf"),
            ("PILOT_BUDGET_WINDOW_S", "0"),
            ("PILOT_BUDGET_WINDOW_S", "0.5"),
            ("PILOT_BUDGET_WINDOW_OFFSET_S", "-1"),
            ("PILOT_DECISION_TTL_S", "0"),
            ("PILOT_PARK_S", "-1"),
            ("PILOT_EMBEDDING_DIM", "0"),
            ("PILOT_TOPIC_PREFIX", "pilot"),
            ("PILOT_TOPIC_PREFIX", "."),
            ("PILOT_TOPIC_PREFIX", "pi lot."),
            ("PILOT_TOPIC_PREFIX", "x" * 120 + "."),
            ("PILOT_LOG_FORMAT", "xml"),
        ],
    )
    def test_a_value_out_of_range(self, name: str, value: str) -> None:
        """The line shows the setting with the value that was given, and says why it is refused."""
        start, _, reason = complaint(**{name: value}).partition(": ")
        assert start == f"{name}={value!r}"
        assert reason

    def test_a_value_of_the_wrong_type_in_the_file(self, empty_folder: Path) -> None:
        """A file's values are named as the environment would name them."""
        file = empty_folder / "a.toml"
        file.write_text('http_port = "eighty"\n')
        assert complaint(file).startswith("PILOT_HTTP_PORT='eighty': ")

    def test_a_file_that_is_not_there(self, empty_folder: Path) -> None:
        """Only the default file may be missing."""
        assert "nowhere.toml" in complaint(empty_folder / "nowhere.toml")

    def test_a_file_that_is_no_toml(self, empty_folder: Path) -> None:
        """The line names the file."""
        (empty_folder / "pilot.toml").write_text("policy: zcl\n")
        assert complaint().startswith("pilot.toml: ")

    def test_a_file_that_is_not_utf8(self, empty_folder: Path) -> None:
        """So does an encoding error."""
        (empty_folder / "pilot.toml").write_bytes(b"worker_id = 'caf\xe9'\n")
        assert complaint().startswith("pilot.toml: ")


class TestNames:
    """What is derived from the prefix and the worker."""

    def test_topics_group_and_changelogs_follow_the_prefix(self) -> None:
        """Two deployments on one broker share nothing."""
        found = load(PILOT_TOPIC_PREFIX="team-a.router.")
        assert found.application_id == "team-a.router"
        assert found.topic("queries") == "team-a.router.queries"
        assert found.changelog("spend") == "team-a.router-spend-changelog"

    def test_a_worker_is_named_after_host_and_port(self) -> None:
        """Unless it is given a name of its own."""
        assert load(PILOT_HTTP_PORT="81").effective_worker_id == f"{socket.gethostname()}-81"
        assert load(PILOT_WORKER_ID="w-1").effective_worker_id == "w-1"


class TestSecurity:
    """Connection settings that contradict each other are refused with one line that names the setting."""

    @pytest.mark.parametrize(
        ("given", "line"),
        [
            ({"SECURITY_PROTOCOL": "SASL_SSL"}, "PILOT_SASL_MECHANISM: needed with PILOT_SECURITY_PROTOCOL=SASL_SSL"),
            (
                {"SASL_MECHANISM": "PLAIN"},
                "PILOT_SASL_MECHANISM: needs PILOT_SECURITY_PROTOCOL=SASL_SSL or SASL_PLAINTEXT, not PLAINTEXT",
            ),
            (
                {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "PLAIN", "SASL_PASSWORD": "x"},
                "PILOT_SASL_USERNAME: needed with PILOT_SASL_MECHANISM=PLAIN",
            ),
            (
                {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "PLAIN", "SASL_USERNAME": "x"},
                "PILOT_SASL_PASSWORD: needed with PILOT_SASL_MECHANISM=PLAIN: either it or PILOT_SASL_PASSWORD_FILE",
            ),
            (
                {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER"},
                "PILOT_SASL_TOKEN_FILE: needed with PILOT_SASL_MECHANISM=OAUTHBEARER",
            ),
            (
                {"SSL_CAFILE": "ca.pem"},
                "PILOT_SSL_CAFILE: needs PILOT_SECURITY_PROTOCOL=SSL or SASL_SSL, not PLAINTEXT",
            ),
            (
                {"SECURITY_PROTOCOL": "SSL", "SSL_KEYFILE": "own.key"},
                "PILOT_SSL_CERTFILE: needed with PILOT_SSL_KEYFILE",
            ),
        ],
        ids=["no mechanism", "no SASL", "no name", "no password", "no token", "no TLS", "no certificate"],
    )
    def test_contradictions(self, given: dict[str, str], line: str) -> None:
        """Nothing is guessed."""
        assert complaint(**{f"PILOT_{name}": value for name, value in given.items()}) == line

    def test_secrets_are_not_shown(self) -> None:
        """Neither where settings are printed nor where one is refused."""
        secret = "a secret"
        given = {
            "PILOT_SECURITY_PROTOCOL": "SASL_SSL", "PILOT_SASL_MECHANISM": "PLAIN", "PILOT_SASL_USERNAME": "ann",
            "PILOT_SASL_PASSWORD": secret,
        }  # fmt: skip
        found = load(**given)
        assert found.sasl_password is not None
        assert found.sasl_password.get_secret_value() == secret
        for shown in (repr(found), str(found), found.model_dump_json(), str(found.model_dump())):
            assert secret not in shown
        assert secret not in complaint(**given, PILOT_ALPHA="-1")

    def test_a_secret_of_the_wrong_type_is_not_shown_either(self, tmp_path: Path) -> None:
        """A number in the file is refused by its name alone."""
        config = tmp_path / "own.toml"
        config.write_text("sasl_password = 123456789\n")
        said = complaint(config)
        assert said.startswith("PILOT_SASL_PASSWORD: ")
        assert "123456789" not in said
