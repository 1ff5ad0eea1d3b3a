"""One harmless call that shows whether the credentials work, and the sentence when they do not."""

import logging
from typing import Any

import pytest

from connectors.base import Probed, Probing
from connectors.registry import CHANNELS
from schemas.settings import Settings
from tests.contracts.scripted import scripted

SECRETS = {"telegram": "secret-of-a-bot"}
GIVEN: dict[str, dict[str, Any]] = {"telegram": {"telegram_token": "4242:secret-of-a-bot"}}
PATHS = {"telegram": "/bot4242:secret-of-a-bot/getMe"}
BOT = {"ok": True, "result": {"id": 4242, "is_bot": True, "first_name": "B", "username": "our_bot"}}


def _error(status: int, description: str) -> dict[str, Any]:
    return {"status": status, "json": {"ok": False, "error_code": status, "description": description}}


CASES: list[tuple[str, dict[str, Any], bool, str]] = [
    ("telegram", {"status": 200, "json": BOT}, True, "@our_bot (4242)"),
    ("telegram", {"status": 200, "json": BOT | {"result": {"id": 7}}}, False, "another bot"),
    ("telegram", {"status": 200, "json": {"ok": True}}, False, "not with a bot"),
    ("telegram", {"status": 200, "text": "<html>hello</html>"}, False, "HTTP 200"),
    ("telegram", _error(401, "Unauthorized"), False, "CHAT4ALL_TELEGRAM_TOKEN"),
    ("telegram", _error(404, "Not Found"), False, "CHAT4ALL_TELEGRAM_TOKEN"),
    ("telegram", {"status": 502, "text": "<html>Bad Gateway</html>"}, False, "HTTP 502"),
    ("telegram", {"fault": "hang"}, False, "time-out"),
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
    assert SECRETS[channel] not in probed.sentence + caplog.text


async def test_a_host_that_is_not_there_is_said() -> None:
    async with scripted([]) as script:
        url = script.url
    connector = CHANNELS["telegram"].build(Settings.model_validate(GIVEN["telegram"] | {"telegram_url": url}))
    assert isinstance(connector, Probing)
    assert await connector.probe() == Probed(False, "not sent: the connection to the provider was refused")
    await connector.close()
