"""The harmless call that shows whether the credentials work, and the sentence when they do not."""

import logging
from typing import Any

import pytest

from connectors.base import Probed, Probing
from connectors.registry import CHANNELS
from schemas.settings import Settings
from tests.support.scripted import scripted

SECRET = "secret-of-ours"
GIVEN: dict[str, dict[str, Any]] = {
    "instagram": {"instagram_account": "17841405822304914", "instagram_token": SECRET, "instagram_version": "v23.0"},
    "telegram": {"telegram_token": f"4242:{SECRET}"},
    "whatsapp": {"whatsapp_account": "106540352242922", "whatsapp_token": SECRET, "whatsapp_version": "v23.0"},
}
PATHS = {
    "instagram": "/v23.0/me?fields=id,username",
    "telegram": f"/bot4242:{SECRET}/getMe",
    "whatsapp": "/v23.0/106540352242922?fields=display_phone_number,verified_name,quality_rating",
}
BOT = {"ok": True, "result": {"id": 4242, "is_bot": True, "first_name": "B", "username": "our_bot"}}
NUMBER = {"id": "106540352242922", "display_phone_number": "+1 555-078-3881", "verified_name": "Shop"}
HTML = {"status": 502, "text": "<html>Bad Gateway</html>"}


def _telegram(status: int, description: str) -> dict[str, Any]:
    return {"status": status, "json": {"ok": False, "error_code": status, "description": description}}


def _meta(status: int, code: int) -> dict[str, Any]:
    error = {"message": f"(#{code}) words of Meta", "type": "OAuthException", "code": code, "fbtrace_id": "A1"}
    return {"status": status, "json": {"error": error}}


CASES: list[tuple[str, dict[str, Any], bool, str]] = [
    ("telegram", {"status": 200, "json": BOT}, True, "@our_bot (4242)"),
    ("telegram", {"status": 200, "json": BOT | {"result": {"id": 7}}}, False, "another bot"),
    ("telegram", {"status": 200, "json": {"ok": True}}, False, "describes no bot"),
    ("telegram", {"status": 200, "text": "<html>hello</html>"}, False, "HTTP 200"),
    ("telegram", _telegram(401, "Unauthorized"), False, "CHAT4ALL_TELEGRAM_TOKEN"),
    ("telegram", _telegram(404, "Not Found"), False, "CHAT4ALL_TELEGRAM_TOKEN"),
    ("telegram", HTML, False, "HTTP 502"),
    ("telegram", {"fault": "hang"}, False, "time-out"),
    ("whatsapp", {"status": 200, "json": NUMBER}, True, "+1 555-078-3881, Shop"),
    ("whatsapp", {"status": 200, "json": {"data": []}}, False, "CHAT4ALL_WHATSAPP_ACCOUNT"),
    ("whatsapp", {"status": 200, "text": "<html>hello</html>"}, False, "CHAT4ALL_WHATSAPP_ACCOUNT"),
    ("whatsapp", _meta(401, 190), False, "access token expired or was revoked"),
    ("whatsapp", _meta(400, 100), False, "CHAT4ALL_WHATSAPP_ACCOUNT"),
    ("whatsapp", _meta(403, 10), False, "permission"),
    ("whatsapp", HTML, False, "HTTP 502"),
    ("instagram", {"status": 200, "json": {"id": "24", "username": "our_shop"}}, True, "24, our_shop"),
    ("instagram", _meta(400, 190), False, "access token expired or was revoked"),
]


@pytest.mark.parametrize(("channel", "answer", "good", "says"), CASES)
async def test_a_probe_says_what_is_wrong(
    channel: str, answer: dict[str, Any], good: bool, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted([answer]) as script:
        given = {f"{channel}_url": script.url, "send_timeout_seconds": 0.4 if "fault" in answer else 20}
        settings = Settings.model_validate(GIVEN[channel] | given)
        connector = CHANNELS[channel].build(settings)
        assert isinstance(connector, Probing)
        probed = await connector.probe()
        await connector.close()
    assert probed.good is good
    assert says in probed.sentence
    assert [(request["method"], request["path"]) for request in script.requests] == [("GET", PATHS[channel])]
    assert SECRET not in probed.sentence + caplog.text


async def test_a_probe_reports_a_host_that_refuses_the_connection() -> None:
    async with scripted([]) as script:
        url = script.url
    connector = CHANNELS["telegram"].build(Settings.model_validate(GIVEN["telegram"] | {"telegram_url": url}))
    assert isinstance(connector, Probing)
    assert await connector.probe() == Probed(False, "not sent: the connection to the provider was refused")
    await connector.close()


async def test_the_internal_channel_has_nothing_to_call() -> None:
    for tokens, good, says in (
        ("", False, "CHAT4ALL_INTERNAL_TOKENS"),
        (f"{SECRET}=default:*", True, "nothing to call"),
    ):
        settings = Settings.model_validate({"internal_account": "our-app", "internal_tokens": tokens})
        connector = CHANNELS["internal"].build(settings)
        assert isinstance(connector, Probing)
        probed = await connector.probe()
        assert probed.good is good
        assert says in probed.sentence
