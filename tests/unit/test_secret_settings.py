"""Secrets may come from files, go into the URLs of servers, and are never shown: in no repr, no dump and no error."""

import json
from pathlib import Path

import psycopg.conninfo
import pytest
import redis
from pydantic import SecretStr, ValidationError

from schemas.environment import secret_fields
from schemas.settings import Settings, state_file, wrong
from stack.certificates import Certificates
from stack.replaced import EnvironmentSettings

SECRET = "never/shown:7f3a@of-this-test-alone"
CA = "the file of an authority"
QUOTED = "never%2Fshown%3A7f3a%40of-this-test-alone"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*Settings.model_fields, *(f"{each}_file" for each in Settings.model_fields), "state", "stack"):
        monkeypatch.delenv(f"CHAT4ALL_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n", encoding="utf-8")
    return path


def refused() -> str:
    with pytest.raises(ValidationError) as caught:
        Settings()
    sentence = wrong(caught.value)
    assert SECRET not in f"{caught.value} {caught.value!r} {sentence}"
    assert QUOTED not in f"{caught.value} {caught.value!r} {sentence}"
    assert "\n" not in sentence
    return sentence


def test_every_secret_may_be_a_file(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    for name in sorted(secret_fields(Settings)):
        if name.startswith(("kafka", "postgres", "clickhouse", "valkey")):
            continue  # they need other settings: see below
        secret = f"{SECRET}=*:*" if name == "internal_tokens" else SECRET  # a token with its tenant and people
        file.write_text(f"{secret}\n", encoding="utf-8")
        monkeypatch.setenv(f"CHAT4ALL_{name.upper()}_FILE", str(file))
        assert Settings().text(name) == secret, name
        assert EnvironmentSettings().text(name) == secret, name
        assert SECRET not in f"{Settings()!r} {Settings().model_dump()}"
        monkeypatch.delenv(f"CHAT4ALL_{name.upper()}_FILE")


def test_a_channel_without_a_field_may_have_a_file_too(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr("schemas.environment.CHANNELS", ("pigeon",))
    monkeypatch.setenv("CHAT4ALL_PIGEON_TOKEN_FILE", str(file))
    assert Settings().text("pigeon_token") == SECRET
    assert Settings().text("pigeon_token_file") == ""


def test_a_file_goes_before_the_stack_but_not_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    state_file().parent.mkdir(parents=True)
    state_file().write_text(json.dumps({"settings": {"telegram_token": "of the stack"}}), encoding="utf-8")
    assert Settings().text("telegram_token") == "of the stack"
    monkeypatch.setenv("CHAT4ALL_TELEGRAM_TOKEN_FILE", str(file))
    assert Settings().text("telegram_token") == SECRET
    monkeypatch.setenv("CHAT4ALL_TELEGRAM_TOKEN", "another")
    assert refused() == "CHAT4ALL_TELEGRAM_TOKEN_FILE and CHAT4ALL_TELEGRAM_TOKEN are both set: set one of them"


def test_a_file_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHAT4ALL_TELEGRAM_TOKEN_FILE", str(tmp_path / "nowhere"))
    assert (
        refused() == f"CHAT4ALL_TELEGRAM_TOKEN_FILE: {tmp_path / 'nowhere'} cannot be read: No such file or directory"
    )
    for content, reason in {
        b"\xff\xfe\x00": "is not text in UTF-8",
        b"": "is empty",
        b" \n": "is empty",
        f"{SECRET}\nanother\n".encode(): "has several lines, but a secret has one",
    }.items():
        (tmp_path / "bytes").write_bytes(content)
        monkeypatch.setenv("CHAT4ALL_TELEGRAM_TOKEN_FILE", str(tmp_path / "bytes"))
        assert refused() == f"CHAT4ALL_TELEGRAM_TOKEN_FILE: {tmp_path / 'bytes'} {reason}"
    monkeypatch.setenv("CHAT4ALL_TELEGRAM_TOKEN_FILE", str(tmp_path))
    assert refused() == f"CHAT4ALL_TELEGRAM_TOKEN_FILE: {tmp_path} cannot be read: Is a directory"


@pytest.mark.parametrize("content", [f"{SECRET}", f"{SECRET}\r\n", f"{SECRET}\n\n", f"\ufeff{SECRET}\n"])
def test_line_ends_and_byte_order_marks_in_a_file_are_not_part_of_the_secret(
    monkeypatch: pytest.MonkeyPatch, file: Path, content: str
) -> None:
    file.write_bytes(content.encode())
    monkeypatch.setenv("CHAT4ALL_TELEGRAM_TOKEN_FILE", str(file))
    assert Settings().text("telegram_token") == SECRET


def test_a_file_for_a_setting_that_is_not_secret_is_refused(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setenv("CHAT4ALL_KAFKA_USER_FILE", str(file))
    assert refused() == "CHAT4ALL_KAFKA_USER_FILE: only a secret is read from a file: set CHAT4ALL_KAFKA_USER"


def test_passwords_and_authorities_go_into_the_urls(
    monkeypatch: pytest.MonkeyPatch, file: Path, tmp_path: Path
) -> None:
    made = Certificates(tmp_path / "certificates")
    made.issue("server")
    for name, url in {
        "postgres": "postgresql://me@db.example:5432/chat4all?application_name=x",
        "clickhouse": "https://me@db.example:8443/chat4all",
        "valkey": "rediss://db.example:6379/0",
    }.items():
        monkeypatch.setenv(f"CHAT4ALL_{name.upper()}_URL", url)
        monkeypatch.setenv(f"CHAT4ALL_{name.upper()}_PASSWORD_FILE", str(file))
        monkeypatch.setenv(f"CHAT4ALL_{name.upper()}_CA_FILE", str(made.ca))
    settings = Settings()
    found = psycopg.conninfo.conninfo_to_dict(settings.postgres_url)
    assert (found["password"], found["sslmode"], found["sslrootcert"]) == (SECRET, "verify-full", str(made.ca))
    assert settings.clickhouse_url == f"https://me:{QUOTED}@db.example:8443/chat4all?ca_cert={made.ca}"
    pool = redis.Redis.from_url(settings.valkey_url).connection_pool
    assert (pool.connection_kwargs["password"], pool.connection_kwargs["ssl_ca_certs"]) == (SECRET, str(made.ca))
    shown = f"{settings!r} {settings} {settings.model_dump()} {[settings.postgres_url, settings.valkey_url]}"
    assert SECRET not in shown
    assert QUOTED not in shown
    assert Settings.model_validate(settings.model_dump()).postgres_url == settings.postgres_url


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Certificates(tmp_path_factory.mktemp("authority"))
    made.issue("server")
    return made.ca


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"POSTGRES_URL": f"postgresql://me:{QUOTED}@db/x", "POSTGRES_PASSWORD": "other"}, "remove it from the URL"),
        ({"POSTGRES_URL": "postgresql://db/x", "POSTGRES_PASSWORD": SECRET}, "CHAT4ALL_POSTGRES_URL names no user"),
        ({"CLICKHOUSE_URL": "http://db:8123/x", "CLICKHOUSE_CA_FILE": CA}, "does not use TLS: write https://"),
        ({"VALKEY_URL": "redis://db/0", "VALKEY_CA_FILE": CA}, "does not use TLS: write rediss://"),
        ({"S3_URL": "http://s3:80", "S3_CA_FILE": CA}, "CHAT4ALL_S3_URL does not use TLS: write https://"),
        (
            {"POSTGRES_URL": "postgresql://me@db/x?sslmode=prefer", "POSTGRES_CA_FILE": CA},
            "CHAT4ALL_POSTGRES_URL has sslmode=prefer, which does not check certificates: remove it",
        ),
        (
            {"CLICKHOUSE_URL": "https://db/x?verify=False", "CLICKHOUSE_CA_FILE": CA},
            "has verify=False, which does not",
        ),
        (
            {"VALKEY_URL": "rediss://db/0?ssl_cert_reqs=none", "VALKEY_CA_FILE": CA},
            "has ssl_cert_reqs=none, which does",
        ),
        ({"POSTGRES_CA_FILE": __file__}, f"CHAT4ALL_POSTGRES_CA_FILE: {__file__} contains no certificate in PEM"),
        ({"S3_CA_FILE": __file__}, f"CHAT4ALL_S3_CA_FILE: {__file__} contains no certificate in PEM"),
        ({"POSTGRES_URL": f"host=db user=me password={SECRET}"}, "it must begin with postgresql://"),
        ({"POSTGRES_URL": f"me:{QUOTED}@db/x"}, "it must begin with postgresql://"),
        ({"POSTGRES_URL": "postgresql://me:50%off@db/x"}, "has a % without two hexadecimal digits after it: write %25"),
        (
            {"CLICKHOUSE_URL": "db:8123"},
            "CHAT4ALL_CLICKHOUSE_URL is not a URL of this kind of server: it must begin with http://",
        ),
        ({"S3_CA_FILE": "/nowhere/ca.pem"}, "CHAT4ALL_S3_CA_FILE: /nowhere/ca.pem cannot be read"),
        ({"KAFKA_PASSWORD": SECRET}, "CHAT4ALL_KAFKA_PASSWORD is set, but CHAT4ALL_KAFKA_SECURITY_PROTOCOL=PLAINTEXT"),
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "CHAT4ALL_KAFKA_SECURITY_PROTOCOL: Input should be 'PLAINTEXT'"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_contradictory_settings_of_a_server_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str, authority: Path
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"CHAT4ALL_{name}", str(authority) if value == CA else value)
    assert sentence in refused()


def test_brokers_may_have_spaces_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_KAFKA_URL", "one:1, two:2 ,three")
    assert Settings().kafka.url == "one:1,two:2,three"


def test_another_kafka_gets_no_password_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    state_file().parent.mkdir(parents=True)
    of_stack = {
        "kafka_url": "127.0.0.1:1", "kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_mechanism": "PLAIN",
        "kafka_user": "me", "kafka_password": SECRET,
    }  # fmt: skip  # names and values on two lines
    state_file().write_text(json.dumps({"settings": of_stack}), encoding="utf-8")
    assert (Settings().kafka.user, Settings().kafka_password) == ("me", SecretStr(SECRET))
    monkeypatch.setenv("CHAT4ALL_KAFKA_URL", "127.0.0.1:2")
    assert (Settings().kafka.protocol, Settings().kafka.user, Settings().kafka.password) == ("PLAINTEXT", "", "")
