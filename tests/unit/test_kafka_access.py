"""How to reach Kafka: contradictory settings are refused by name, and no repr contains a secret."""

import base64
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives import serialization

from schemas import bearer
from schemas.kafka_access import KafkaAccess, WrongAccess
from schemas.secret_masking import MaskedText, masked
from stack.certificates import Certificates

SECRET = "never-shown-7f3a"
SCRAM: dict[str, Any] = {
    "protocol": "SASL_SSL", "mechanism": "SCRAM-SHA-512", "user": "core", "password": MaskedText(SECRET),
}  # fmt: skip  # names and values on one line


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.issue("core")
    return made


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"protocol": "SASL_SSL"}, "CHAT4ALL_KAFKA_SECURITY_PROTOCOL=SASL_SSL needs CHAT4ALL_KAFKA_SASL_MECHANISM"),
        ({**SCRAM, "user": ""}, "SCRAM-SHA-512 needs CHAT4ALL_KAFKA_USER$"),
        ({**SCRAM, "password": MaskedText("")}, "SCRAM-SHA-512 needs CHAT4ALL_KAFKA_PASSWORD$"),
        ({"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER"}, "needs CHAT4ALL_KAFKA_TOKEN_COMMAND$"),
        ({"mechanism": "PLAIN"}, "CHAT4ALL_KAFKA_SASL_MECHANISM is set, but .*=PLAINTEXT has no authentication"),
        (
            {"protocol": "SSL", "password": MaskedText(SECRET)},
            "CHAT4ALL_KAFKA_PASSWORD is set, but .*=SSL has no authentication",
        ),
        (
            {"token_command": MaskedText("print it")},
            "CHAT4ALL_KAFKA_TOKEN_COMMAND is set, but .*=PLAINTEXT has no authentication",
        ),
        (
            {**SCRAM, "token_command": MaskedText(f"print {SECRET}")},
            "SCRAM-SHA-512 does not use CHAT4ALL_KAFKA_TOKEN_COMMAND: remove the settings that are wrong",
        ),
        (
            {**SCRAM, "mechanism": "OAUTHBEARER", "token_command": MaskedText("print it")},
            "OAUTHBEARER does not use CHAT4ALL_KAFKA_USER and CHAT4ALL_KAFKA_PASSWORD",
        ),
        (
            {"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER", "token_command": MaskedText(f"print '{SECRET}")},
            "CHAT4ALL_KAFKA_TOKEN_COMMAND is not a valid command line: No closing quotation",
        ),
        ({"ca_file": "ca.pem"}, "CHAT4ALL_KAFKA_CA_FILE is set, but .*=PLAINTEXT does not use TLS"),
        ({"protocol": "SSL", "key_file": "key.pem"}, "CHAT4ALL_KAFKA_KEY_FILE needs CHAT4ALL_KAFKA_CERTIFICATE_FILE"),
        (
            {"protocol": "SSL", "ca_file": "/nowhere/ca.pem"},
            "CHAT4ALL_KAFKA_CA_FILE: /nowhere/ca.pem cannot be read: No such",
        ),
        ({"protocol": "SSL", "ca_file": __file__}, "CHAT4ALL_KAFKA_CA_FILE.* is not valid"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_contradictory_settings_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WrongAccess, match=sentence) as refused:
        KafkaAccess("127.0.0.1:1", **given).check()
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["SASL_SSL://broker:1", f"me:{SECRET}@broker:1", "broker:port", "a:1,", "a:1;b:2", "a:1/x"]
)
def test_brokers_are_hosts_with_ports(url: str) -> None:
    with pytest.raises(WrongAccess, match="CHAT4ALL_KAFKA_URL: write host:port") as refused:
        KafkaAccess(url).check()
    assert SECRET not in str(refused.value)
    for good in ("", "broker", "broker:1", "a:1,b:2, c:3", "[::1]:9092"):
        KafkaAccess(good).check()


def test_librdkafka_takes_the_settings_of_every_kind(certificates: Certificates) -> None:
    """librdkafka refuses unknown names and values when the client is made."""
    tls = {"ca_file": str(certificates.ca)}
    own = tls | {"certificate_file": str(certificates.folder / "core.pem")}
    kinds: list[dict[str, Any]] = [
        {},
        {"protocol": "SSL", **own},
        {**SCRAM, **tls},
        {**SCRAM, "protocol": "SASL_PLAINTEXT", "mechanism": "PLAIN"},
        {"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER", "token_command": MaskedText("echo a-token"), **tls},
    ]
    for kind in kinds:
        kafka = KafkaAccess("127.0.0.1:1", **kind)
        kafka.check()
        settings = kafka.settings("test")
        assert settings["client.id"] == "chat4all-test"
        AdminClient(settings)
        Producer(settings)


def test_no_secret_is_in_a_repr() -> None:
    kafka = KafkaAccess("127.0.0.1:1", **SCRAM, token_command=MaskedText(f"print {SECRET}"))
    settings = kafka.settings("test")
    assert settings["sasl.password"] == SECRET
    assert SECRET not in f"{kafka!r} {settings!r} {kafka} {vars(kafka.__class__)!r}"
    assert repr(f"{masked(f'postgresql://me:{SECRET}@host/db')}") == "'postgresql://me:***@host/db'"


def test_a_key_with_a_password_is_refused_without_a_prompt(certificates: Certificates, tmp_path: Path) -> None:
    whole = (certificates.folder / "core.pem").read_bytes()
    key = serialization.load_pem_private_key(whole, password=None)
    locked = serialization.BestAvailableEncryption(b"a password")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*form))
    own = {"certificate_file": str(certificates.folder / "core.pem"), "key_file": str(tmp_path / "key.pem")}
    with pytest.raises(WrongAccess, match=r"CHAT4ALL_KAFKA_KEY_FILE is not valid .*the key without a pass"):
        KafkaAccess("127.0.0.1:1", protocol="SSL", **own).check()  # type: ignore[arg-type]  # texts only


def jwt(**claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@pytest.mark.parametrize(
    ("printed", "expires_at", "subject"),
    [
        (jwt(sub="core", exp=4000), 4000.0, "core"),
        ("opaque\n", 1300.0, ""),
        (json.dumps({"access_token": jwt(sub="core", exp=4000), "expires_in": 60}), 1060.0, "core"),
        (json.dumps({"access_token": "a.b.c"}), 1300.0, ""),
    ],
    ids=["JWT", "opaque", "JSON", "no JWT in JSON"],
)
def test_a_token_has_an_expiry(printed: str, expires_at: float, subject: str) -> None:
    token = bearer.read(printed, 1000.0)
    assert (token.expires_at, token.subject) == (expires_at, subject)
    assert token.text not in repr(token)


def test_the_command_gets_no_setting_of_ours_and_is_never_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT4ALL_POSTGRES_PASSWORD", SECRET)
    command = tmp_path / "command"
    command.write_text(
        f"#!{sys.executable}\nimport os\nprint('none' if not any('CHAT4ALL' in n for n in os.environ) else 'some')\n"
    )
    command.chmod(stat.S_IRWXU)
    assert bearer.token([str(command)]).text == "none"
    for printed in ("", "two words " + SECRET):
        with pytest.raises(bearer.NoToken) as refused:
            bearer.read(printed, 0.0)
        assert SECRET not in str(refused.value)
    with pytest.raises(bearer.NoToken, match="could not be run: FileNotFoundError"):
        bearer.token([str(tmp_path / "nowhere")])
