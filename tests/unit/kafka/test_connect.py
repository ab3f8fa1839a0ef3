"""What every Kafka client is given, from the settings. Certificates are the broker's tests' concern (tests/ops)."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import UsageError
from worker.kafka import connect
from worker.settings import Settings


def test_plain_settings_ask_for_nothing() -> None:
    """Without security settings a client gets the address alone."""
    assert connect.client_arguments(Settings(bootstrap_servers="a:1")) == {
        "bootstrap_servers": "a:1", "security_protocol": "PLAINTEXT", "ssl_context": None,
    }  # fmt: skip


def test_a_password_file_gives_its_line(tmp_path: Path) -> None:
    """The line end that editors add does not belong to the password; spaces do."""
    (tmp_path / "password").write_text(" a secret \n")
    settings = Settings(
        security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-256", sasl_username="ann",
        sasl_password_file=tmp_path / "password",
    )  # fmt: skip
    arguments = connect.client_arguments(settings)
    assert arguments["sasl_plain_password"] == " a secret "
    assert (arguments["sasl_plain_username"], arguments["sasl_mechanism"]) == ("ann", "SCRAM-SHA-256")


async def test_a_token_is_read_anew_each_time(tmp_path: Path) -> None:
    """Whatever renews the file is heard at the next connection."""
    path = tmp_path / "token"
    provider = connect.TokenFile(path)
    for token in ("first", "second"):
        path.write_text(token)
        assert await provider.token() == token


@pytest.mark.parametrize("setting", ["ssl_cafile", "ssl_certfile"])
def test_a_missing_certificate_is_named(setting: str, tmp_path: Path) -> None:
    """The line has the setting, the path and the reason."""
    settings = Settings(security_protocol="SSL", **{setting: tmp_path / "none.pem"})
    with pytest.raises(UsageError) as refused:
        connect.client_arguments(settings)
    assert str(refused.value) == f"PILOT_{setting.upper()}={tmp_path / 'none.pem'}: No such file or directory"


def test_a_missing_key_is_not_taken_for_the_certificate(tmp_path: Path) -> None:
    """Of a pair the missing one is named."""
    (tmp_path / "own.pem").write_text("")
    settings = Settings(security_protocol="SSL", ssl_certfile=tmp_path / "own.pem", ssl_keyfile=tmp_path / "none.key")
    with pytest.raises(UsageError, match=r"^PILOT_SSL_KEYFILE=.*none\.key: No such file"):
        connect.client_arguments(settings)


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        (Settings(), "User:ANONYMOUS"),
        (
            Settings(
                security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="ann", sasl_password="x"
            ),
            "User:ann",
        ),
        (Settings(security_protocol="SSL", ssl_certfile="own.pem"), "the subject of PILOT_SSL_CERTFILE=own.pem"),
        (
            Settings(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER", sasl_token_file="t"),
            "the subject of PILOT_SASL_TOKEN_FILE=t",
        ),
    ],
    ids=["nobody", "name", "certificate", "token"],
)  # fmt: skip
def test_the_principal_is_named_as_far_as_it_is_known(settings: Settings, shown: str) -> None:
    """Error lines say who lacks a right."""
    assert connect.principal(settings) == shown
