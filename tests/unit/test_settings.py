"""Settings: the environment goes before the state file of the running stack, and that before the defaults; errors are one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from schemas.settings import MissingSetting, Settings, state_file


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*Settings.model_fields, "state", "stack"):
        monkeypatch.delenv(f"CHAT4ALL_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def stack_says(settings: Any, at: str = ".chat4all/dev/state.json") -> None:
    path = Path(at)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": settings}), encoding="utf-8")


def test_the_environment_goes_before_the_state_file_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (Settings().kafka_url, Settings().partitions, Settings().web_port) == ("", 12, 6066)
    stack_says({"kafka_url": "127.0.0.1:1", "partitions": 4})
    assert (Settings().kafka_url, Settings().partitions, Settings().web_port) == ("127.0.0.1:1", 4, 6066)
    monkeypatch.setenv("CHAT4ALL_KAFKA_URL", "127.0.0.1:2")
    assert (Settings().kafka_url, Settings().partitions, Settings().web_port) == ("127.0.0.1:2", 4, 6066)
    assert Settings(kafka_url="127.0.0.1:3").kafka_url == "127.0.0.1:3"


def test_the_state_file_is_that_of_the_named_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    stack_says({"partitions": 2}, ".chat4all/other/state.json")
    stack_says({"partitions": 3}, "elsewhere.json")
    assert Settings().partitions == 12
    monkeypatch.setenv("CHAT4ALL_STACK", "other")
    assert state_file() == Path(".chat4all/other/state.json")
    assert Settings().partitions == 2
    monkeypatch.setenv("CHAT4ALL_STATE", "elsewhere.json")
    assert Settings().partitions == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": []}', '{"services": []}'])
def test_a_state_file_without_settings_is_not_an_error(text: str) -> None:
    stack_says({})
    state_file().write_text(text, encoding="utf-8")
    assert Settings() == Settings.model_validate({})


def test_unknown_names_in_the_state_file_are_ignored() -> None:
    stack_says({"partitions": 3, "colour": "green"})
    assert Settings().partitions == 3


def test_a_new_channel_needs_no_field_before_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.environment.CHANNELS", ("pigeon",))
    monkeypatch.setenv("CHAT4ALL_PIGEON_TOKEN", "coo-never-shown")
    monkeypatch.setenv("CHAT4ALL_COLOUR", "green")
    stack_says({"pigeon_loft": "7", "pigeon_token": "from the stack"})
    settings = Settings()
    found = [settings.text(name) for name in ("pigeon_token", "pigeon_loft", "pigeon_url", "colour")]
    assert found == ["coo-never-shown", "7", "", ""]
    settings.require("pigeon_token", "pigeon_loft")
    with pytest.raises(MissingSetting, match="set CHAT4ALL_PIGEON_URL,"):
        settings.require("pigeon_token", "pigeon_url")
    assert "coo-never-shown" not in repr(settings) + str(settings.model_dump())


def test_require_names_everything_that_is_missing() -> None:
    settings = Settings(kafka_url="127.0.0.1:1", whatsapp_token=SecretStr(""))
    settings.require("kafka_url")
    with pytest.raises(MissingSetting) as caught:
        settings.require("kafka_url", "postgres_url", "whatsapp_token")
    assert str(caught.value) == (
        "not configured: set CHAT4ALL_POSTGRES_URL, CHAT4ALL_WHATSAPP_TOKEN, "
        "or start the development stack with `chat4all up`"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partitions", "0"),
        ("partitions", "many"),
        ("log_format", "xml"),
        ("whatsapp_version", "23"),
        ("dedupe_days", "-1"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"CHAT4ALL_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_secrets_do_not_show() -> None:
    settings = Settings(telegram_token=SecretStr("7000000001:shown-never"))
    assert "shown-never" not in repr(settings)
    assert "shown-never" not in str(settings.model_dump())


def test_every_setting_has_a_default_and_a_meaning() -> None:
    for name, field in Settings.model_fields.items():
        assert not field.is_required(), name
        assert (field.description or "").endswith("."), name


def test_names_that_hold_secrets_are_secrets() -> None:
    words = ("token", "secret", "password", "tracker_keys")
    for name, field in Settings.model_fields.items():
        assert (field.annotation is SecretStr) == any(word in name for word in words), name
