"""getUpdates by the connector: what it asks for, what it makes of every answer, and the sentence for each refusal."""

import logging
from typing import Any

import pytest

from connectors.base import NotPolled, Polled, Polling
from connectors.telegram.connector import TelegramConnector
from tests.support.running_simulators import BOT_TOKEN, HOOK_SECRET, eventually, rig
from tests.support.scripted import scripted

NOW = 1_773_347_860_000
SECRET = "secret-of-ours"


def _update(update_id: object, text: str = "hi", message_id: int = 1) -> dict[str, Any]:
    chat = {"id": 5, "type": "private"}
    message = {
        "message_id": message_id,
        "from": chat | {"is_bot": False},
        "chat": chat,
        "date": 1773347800,
        "text": text,
    }
    return {"update_id": update_id, "message": message}


def _refused(status: int, description: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "json": {"ok": False, "error_code": status, "description": description, **more}}


def _answer(*updates: Any) -> dict[str, Any]:
    return {"status": 200, "json": {"ok": True, "result": list(updates)}}


async def _polled(answer: dict[str, Any], position: str = "", now: int = NOW) -> tuple[Polled | NotPolled, Any]:
    async with scripted([answer]) as script:
        connector = TelegramConnector(url=script.url, token=f"4242:{SECRET}")
        assert isinstance(connector, Polling)
        found = await connector.poll(position, 30, lambda: now)
        await connector.close()
    return found, script.requests[0]


async def test_updates_are_read_as_from_the_webhook_and_the_position_is_behind_them() -> None:
    found, request = await _polled(_answer(_update(7), _update(8, "there", 2)), "7@1773347000")
    assert (request["method"], request["path"]) == ("POST", f"/bot4242:{SECRET}/getUpdates")
    asked = request["json"]
    assert (asked["offset"], asked["limit"], asked["timeout"]) == (7, 100, 30)
    assert set(asked["allowed_updates"]) == {
        "message",
        "edited_message",
        "callback_query",
        "message_reaction",
        "my_chat_member",
    }
    assert isinstance(found, Polled)
    assert found.position == f"9@{NOW // 1000}"
    assert [each.inbound[0].text for each in found.items] == ["hi", "there"]
    assert found.items[0].inbound[0].account == "4242"


@pytest.mark.parametrize("position", ["", "x", "7", "7@", f"7@{NOW // 1000 - 3 * 86_400}"])
async def test_without_a_position_or_with_an_old_one_everything_is_new(position: str) -> None:
    """Ids begin at random after a week without updates, and an offset above the new ones could confirm them unread."""
    found, request = await _polled(_answer(), position)
    assert "offset" not in request["json"]
    assert found == Polled((), position)


async def test_ids_that_began_again_are_followed() -> None:
    found, _ = await _polled(_answer(_update(3)), f"900@{NOW // 1000}")
    assert isinstance(found, Polled)
    assert found.position.startswith("4@")


@pytest.mark.parametrize("bad", [{"update_id": 8}, {"update_id": 8, "message": "x"}, "x", None, 7, _update("x"), {}])
async def test_a_bad_update_does_not_keep_the_others_away(bad: Any) -> None:
    found, _ = await _polled(_answer(_update(7), bad, _update(9, message_id=3)))
    assert isinstance(found, Polled)
    assert found.position.startswith("10@")
    assert [len(each.inbound) for each in found.items][::2] == [1, 1]
    assert found.items[1].unrecognised or found.items[1].inbound


async def test_a_page_of_large_updates_is_read() -> None:
    found, _ = await _polled(_answer(*(_update(number, "n" * 40_000) for number in range(100))))
    assert isinstance(found, Polled)
    assert len(found.items) == 100


REFUSALS: list[tuple[dict[str, Any], str, float | None, str]] = [
    (
        _refused(409, "Conflict: can't use getUpdates method while webhook is active"),
        "webhook_set",
        15,
        "deleteWebhook",
    ),
    (_refused(409, "Conflict: terminated by setWebhook request"), "webhook_set", 15, "CHAT4ALL_TELEGRAM_POLLING"),
    (_refused(409, "Conflict: terminated by other getUpdates request"), "other_poller", 15, "same token"),
    (_refused(401, "Unauthorized"), "refused", 15, "CHAT4ALL_TELEGRAM_TOKEN"),
    (_refused(404, "Not Found"), "refused", 15, "CHAT4ALL_TELEGRAM_TOKEN"),
    (_refused(400, "Bad Request: new words"), "refused", 15, "HTTP 400"),
    (_refused(429, "Too Many Requests", parameters={"retry_after": 7}), "throttled", 7, "limits the bot's speed"),
    (_refused(429, "Too Many Requests", parameters={"retry_after": 0}), "throttled", 15, "limits the bot's speed"),
    (_refused(500, "Internal Server Error: restart"), "unavailable", None, "HTTP 500"),
    ({"status": 502, "text": "<html>Bad Gateway</html>"}, "unavailable", None, "HTTP 502"),
    ({"fault": "reset"}, "unavailable", None, "no answer of Telegram"),
    ({"status": 200, "text": "<html>hello</html>"}, "unreadable", None, "CHAT4ALL_TELEGRAM_URL"),
    ({"status": 200, "json": {"ok": True}}, "unreadable", None, "CHAT4ALL_TELEGRAM_URL"),
    ({"status": 200, "json": {"ok": True, "result": [{"message": {}}]}}, "unreadable", None, "no ids"),
]


@pytest.mark.parametrize(("answer", "code", "after", "says"), REFUSALS)
async def test_a_refusal_says_what_to_do(
    answer: dict[str, Any], code: str, after: float | None, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    found, _ = await _polled(answer)
    assert isinstance(found, NotPolled)
    assert (found.code, found.after_seconds) == (code, after)
    assert says in found.sentence
    assert SECRET not in found.sentence + caplog.text


async def test_a_host_that_refuses_the_connection_is_unavailable() -> None:
    async with scripted([]) as script:
        url = script.url
    connector = TelegramConnector(url=url, token=f"4242:{SECRET}")
    found = await connector.poll("", 30, lambda: NOW)
    await connector.close()
    assert isinstance(found, NotPolled)
    assert found.code == "unavailable"


async def test_the_simulated_server_keeps_what_is_not_confirmed() -> None:
    async with rig("telegram") as at:
        connector = TelegramConnector(url=at.url, token=BOT_TOKEN, webhook_secret=HOOK_SECRET)
        refused = await connector.poll("", 0, lambda: NOW)
        await at.post(f"/bot{BOT_TOKEN}/deleteWebhook", {})
        for number in range(3):
            await at.control("/_control/inbound", chat_id=5, text=f"t{number}")
        await eventually(lambda: len(at.provider.webhooks._waiting) == 3)  # type: ignore[attr-defined]  # `pending` counts those not due too
        first = await connector.poll("", 5, lambda: NOW)
        again = await connector.poll("", 5, lambda: NOW)
        assert isinstance(first, Polled)
        behind = await connector.poll(first.position, 0, lambda: NOW)
        assert not at.provider.webhooks.pending
        await connector.close()
    assert isinstance(refused, NotPolled)
    assert refused.code == "webhook_set"
    assert [each.inbound[0].text for each in first.items] == ["t0", "t1", "t2"]
    assert isinstance(again, Polled)
    assert again.items[0] == first.items[0]
    assert behind == Polled((), first.position)
