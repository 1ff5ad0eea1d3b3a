"""`chat4all channels test`: one call, one sentence and its exit code."""

import asyncio
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli import channels
from schemas.settings import MissingSetting
from tests.support.scripted import scripted

BOT = {"ok": True, "result": {"id": 4242, "is_bot": True, "first_name": "B", "username": "our_bot"}}
run = CliRunner()


async def _telegram(answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Result:
    async with scripted([answer]) as script:
        monkeypatch.setenv("CHAT4ALL_TELEGRAM_URL", script.url)
        monkeypatch.setenv("CHAT4ALL_TELEGRAM_TOKEN", "4242:secret-of-ours")
        return await asyncio.to_thread(run.invoke, channels.app, ["test", "telegram"])


async def test_good_credentials_are_reported_with_the_settings_that_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = await _telegram({"status": 200, "json": BOT}, monkeypatch)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "telegram: Telegram knows the bot @our_bot (4242)",
        "telegram: the gateway refuses its webhooks until you set CHAT4ALL_TELEGRAM_WEBHOOK_SECRET",
    ]
    monkeypatch.setenv("CHAT4ALL_TELEGRAM_WEBHOOK_SECRET", "hook")
    result = await _telegram({"status": 200, "json": BOT}, monkeypatch)
    assert result.stdout.splitlines() == ["telegram: Telegram knows the bot @our_bot (4242)"]
    monkeypatch.delenv("CHAT4ALL_TELEGRAM_WEBHOOK_SECRET")
    monkeypatch.setenv("CHAT4ALL_TELEGRAM_POLLING", "true")
    result = await _telegram({"status": 200, "json": BOT}, monkeypatch)
    assert result.stdout.splitlines()[1:] == [
        "telegram: the gateway asks for its updates; no webhook is needed, and none may be set"
    ]


async def test_bad_credentials_end_with_1_and_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {"ok": False, "error_code": 401, "description": "Unauthorized"}
    result = await _telegram({"status": 401, "json": refused}, monkeypatch)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "telegram: Telegram does not know the bot's token: set a valid CHAT4ALL_TELEGRAM_TOKEN"
    ]


def test_without_credentials_or_with_an_unknown_channel_no_call_is_made() -> None:
    result = run.invoke(channels.app, ["test", "pigeon"])
    assert (result.exit_code, "there is no channel 'pigeon'" in result.stderr) == (2, True)
    with pytest.raises(MissingSetting, match="CHAT4ALL_WHATSAPP_ACCOUNT, CHAT4ALL_WHATSAPP_TOKEN"):
        run.invoke(channels.app, ["test", "whatsapp"], catch_exceptions=False)


def test_the_internal_channel_has_nothing_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_INTERNAL_ACCOUNT", "our-app")
    result = run.invoke(channels.app, ["test", "internal"])
    assert (result.exit_code, "CHAT4ALL_INTERNAL_TOKENS" in result.stderr) == (1, True)
    monkeypatch.setenv("CHAT4ALL_INTERNAL_TOKENS", "token-of-a-client=default:*")
    result = run.invoke(channels.app, ["test", "internal"])
    assert (result.exit_code, "nothing to call" in result.stdout) == (0, True)
