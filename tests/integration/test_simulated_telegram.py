"""The Telegram simulator is as strict as the Bot API: encodings, files, limits, chats that cannot be reached, both paths of updates."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

from simulators.provider_limits import ProviderLimits
from simulators.telegram_updates import CONFLICT_SECONDS
from tests.support.running_simulators import BOT_TOKEN, HOOK_SECRET, Rig, eventually, rig

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
LINK = "https://example.org/a"


async def _call(at: Rig, method: str, **fields: Any) -> Any:
    return (await at.post(f"/bot{BOT_TOKEN}/{method}", fields))[1]


async def _upload(at: Rig, method: str, fields: dict[str, str], files: dict[str, bytes]) -> Any:
    form = aiohttp.FormData(fields)
    for name, content in files.items():
        form.add_field(name, content, filename=f"{name}.png", content_type="application/octet-stream")
    async with (
        aiohttp.ClientSession(at.url) as session,
        session.post(f"/bot{BOT_TOKEN}/{method}", data=form) as response,
    ):
        return await response.json()


def _updates(at: Rig) -> list[dict[str, Any]]:
    return [json.loads(body) for body in at.receiver.bodies]


@pytest.mark.parametrize(
    ("method", "fields", "key"),
    [
        ("sendPhoto", {"photo": LINK + ".png", "caption": "[m-1] x"}, "photo"),
        ("sendDocument", {"document": LINK + ".pdf"}, "document"),
        ("sendVideo", {"video": LINK + ".mp4"}, "video"),
        ("sendAudio", {"audio": LINK + ".mp3"}, "audio"),
        ("sendVoice", {"voice": LINK + ".ogg"}, "voice"),
        ("sendAnimation", {"animation": LINK + ".gif"}, "animation"),
        ("sendSticker", {"sticker": LINK + ".webp"}, "sticker"),
        ("sendLocation", {"latitude": -23.5, "longitude": -46.6}, "location"),
        ("sendVenue", {"latitude": 1, "longitude": 1, "title": "x", "address": "y"}, "venue"),
        ("sendContact", {"phone_number": "1", "first_name": "Ana"}, "contact"),
    ],
)
async def test_every_kind_makes_its_message(method: str, fields: dict[str, Any], key: str) -> None:
    async with rig("telegram") as at:
        answer = await _call(at, method, chat_id=5, **fields)
        (line,) = await at.log()
    assert key in answer["result"]
    assert line["provider_message_id"] == f"5:{answer['result']['message_id']}"


@pytest.mark.parametrize(
    ("method", "fields", "description"),
    [
        ("sendPhoto", {}, "there is no photo in the request"),
        ("sendPhoto", {"photo": "https://gone.invalid/a.png"}, "failed to get HTTP URL content"),
        ("sendPhoto", {"photo": LINK + ".pdf"}, "wrong type of the web page content"),
        ("sendDocument", {"document": LINK + ".docx"}, "wrong type of the web page content"),
        ("sendPhoto", {"photo": "AgACxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}, "wrong file identifier/HTTP URL specified"),
        ("sendPhoto", {"photo": LINK + ".png", "caption": "🌻" * 513}, "message caption is too long"),
        ("sendLocation", {"latitude": 1}, "longitude is empty"),
        ("sendMediaGroup", {"media": [{"type": "photo", "media": LINK}]}, "wrong number of messages in the album"),
        (
            "sendMediaGroup",
            {"media": [{"type": "photo", "media": LINK}, {"type": "document", "media": LINK}]},
            "Document can't be mixed with other media types",
        ),
        (
            "sendMessage",
            {"text": "<b>x", "parse_mode": "HTML"},
            "can't parse entities: Can't find end tag corresponding to start tag \"b\"",
        ),
        (
            "sendMessage",
            {"text": "a.b", "parse_mode": "MarkdownV2"},
            "can't parse entities: Character '.' is reserved and must be escaped with the preceding '\\'",
        ),
        ("sendMessage", {"text": "x", "parse_mode": "Wiki"}, "unsupported parse_mode"),
        ("sendMessage", {"text": "x", "reply_parameters": {"message_id": 99}}, "message to be replied not found"),
        ("setMessageReaction", {"message_id": 99, "reaction": []}, "message to react not found"),
        ("sendChatAction", {"action": "sleeping"}, "wrong parameter action in request"),
        ("getFile", {"file_id": "x"}, "invalid file_id"),
        (
            "setWebhook",
            {"url": "https://example.org:444/"},
            "bad webhook: Webhook can be set up only on ports 80, 88, 443 or 8443",
        ),
        (
            "setWebhook",
            {"url": "https://example.org/", "secret_token": "ü"},
            "secret token contains unallowed characters",
        ),
    ],
)
async def test_a_wrong_call_gets_the_servers_wording(method: str, fields: dict[str, Any], description: str) -> None:
    async with rig("telegram") as at:
        answer = await _call(at, method, chat_id=5, **fields)
    assert answer == {"ok": False, "error_code": 400, "description": f"Bad Request: {description}"}


async def test_formatting_is_counted_after_it_was_parsed() -> None:
    async with rig("telegram") as at:
        html = await _call(
            at, "sendMessage", chat_id=5, text="<b>olá</b> &amp; <a href='https://x.org'>🌻</a>", parse_mode="HTML"
        )
        markdown = await _call(
            at, "sendMessage", chat_id=5, text="*olá* [🌻](https://x.org)\\.", parse_mode="MarkdownV2"
        )
        long = await _call(at, "sendMessage", chat_id=5, text="<b>" + "x" * 4096 + "</b>", parse_mode="HTML")
    for answer, text in ((html, "olá & 🌻"), (markdown, "olá 🌻.")):
        assert answer["result"]["text"] == text
        bold, link = answer["result"]["entities"]
        assert (bold["type"], bold["offset"], bold["length"]) == ("bold", 0, 3)
        assert (link["type"], link["length"], link["url"]) == ("text_link", 2, "https://x.org")
    assert long["ok"] is True


async def test_a_file_is_uploaded_fetched_and_sent_again_by_its_id() -> None:
    async with rig("telegram") as at:
        first = await _upload(at, "sendPhoto", {"chat_id": "5", "caption": "[m-1] x"}, {"photo": PNG})
        file_id = first["result"]["photo"][-1]["file_id"]
        file = await _call(at, "getFile", file_id=file_id)
        async with aiohttp.ClientSession(at.url) as session:
            async with session.get(f"/file/bot{BOT_TOKEN}/{file['result']['file_path']}") as response:
                content = await response.read()
            async with session.get(f"/file/bot4242:wrong/{file['result']['file_path']}") as response:
                assert response.status == 401
        again = await _call(at, "sendPhoto", chat_id=6, photo=file_id)
        misused = await _call(at, "sendVideo", chat_id=6, video=file_id)
        broken = await _upload(at, "sendPhoto", {"chat_id": "5"}, {"photo": b"no picture"})
    assert content == PNG
    assert again["result"]["photo"] == first["result"]["photo"]
    assert misused["description"] == "Bad Request: can't use file of type Photo as Video"
    assert broken["description"] == "Bad Request: IMAGE_PROCESS_FAILED"


async def test_an_album_is_one_call_and_several_messages() -> None:
    media = json.dumps(
        [{"type": "photo", "media": "attach://a", "caption": "[m-1] x"}, {"type": "video", "media": LINK + ".mp4"}]
    )
    async with rig("telegram") as at:
        answer = await _upload(at, "sendMediaGroup", {"chat_id": "5", "media": media}, {"a": PNG})
        (line,) = await at.log()
    first, second = answer["result"]
    assert first["media_group_id"] == second["media_group_id"]
    assert (line["provider_message_id"], line["more_ids"], line["text_key"], line["kind"]) == (
        "5:1",
        ["5:2"],
        "m-1",
        "album",
    )


async def test_chats_that_cannot_be_reached_say_why() -> None:
    async with rig("telegram") as at:
        for chat, state, status, words in (
            (5, "blocked", 403, "Forbidden: bot was blocked by the user"),
            (6, "never_written", 403, "Forbidden: bot can't initiate conversation with a user"),
            (-7, "kicked", 403, "Forbidden: bot was kicked from the group chat"),
            (-8, "migrated", 400, "Bad Request: group chat was upgraded to a supergroup chat"),
        ):
            await at.control(
                "/_control/people", chat_id=chat, state=state, **({"migrate_to": -100123} if chat == -8 else {})
            )
            answer = await _call(at, "sendMessage", chat_id=chat, text="x")
            assert (answer["error_code"], answer["description"]) == (status, words)
            assert answer.get("parameters") == ({"migrate_to_chat_id": -100123} if chat == -8 else None)
        await at.receiver.until(lambda: bool(_updates(at)))
        await at.control("/_control/people", chat_id=5, state=None)
        assert (await _call(at, "sendMessage", chat_id=5, text="x"))["ok"]
    assert _updates(at)[0]["my_chat_member"]["new_chat_member"]["status"] == "kicked"


async def test_a_chat_and_a_group_have_limits_and_the_answer_says_how_long_to_wait() -> None:
    async with (
        rig("telegram", limits=ProviderLimits().changed({"bot_per_second": 0})) as at,
        aiohttp.ClientSession(at.url) as session,
    ):
        assert all([(await _call(at, "sendMessage", chat_id=-5, text="x"))["ok"] for _ in range(20)])
        async with session.post(f"/bot{BOT_TOKEN}/sendMessage", json={"chat_id": -5, "text": "x"}) as response:
            answer = await response.json()
        wait = answer["parameters"]["retry_after"]
        assert (response.status, response.headers["Retry-After"]) == (429, str(wait))
        assert answer["description"] == f"Too Many Requests: retry after {wait}"
        assert (await _call(at, "sendMessage", chat_id=6, text="x"))["ok"]
        await at.advance_clock(wait)
        assert (await _call(at, "sendMessage", chat_id=-5, text="x"))["ok"]


async def test_get_updates_confirms_by_offset_and_excludes_a_webhook() -> None:
    async with rig("telegram") as at:
        conflict = await _call(at, "getUpdates")
        assert (await _call(at, "deleteWebhook"))["result"] is True
        for number in range(3):
            await at.control("/_control/inbound", chat_id=5, text=f"t{number}")
        first = (await _call(at, "getUpdates", timeout=5, limit=1))["result"]
        future = (await _call(at, "getUpdates", offset=first[0]["update_id"] + 100))["result"]
        waiting = asyncio.create_task(_call(at, "getUpdates", offset=first[0]["update_id"] + 9, timeout=50))
        await eventually(lambda: not at.provider.webhooks.pending)
        await at.control("/_control/inbound", chat_id=5, text="t3")
        late = (await waiting)["result"]
    assert conflict["error_code"] == 409
    assert "can't use getUpdates method while webhook is active" in conflict["description"]
    assert [each["message"]["text"] for each in first] == ["t0"]
    # so far in the future, an offset counts as none
    assert [each["message"]["text"] for each in future] == ["t0", "t1", "t2"]
    assert late == []  # t3 has a lower id than the offset asked for, as Telegram would drop it too


async def test_a_second_poll_ends_the_first() -> None:
    async with rig("telegram") as at:
        await _call(at, "deleteWebhook")
        first = asyncio.create_task(_call(at, "getUpdates", timeout=50))
        await eventually(lambda: at.provider.webhooks.is_polled)  # type: ignore[attr-defined]  # a provider's updates may be other ones
        second = asyncio.create_task(_call(at, "getUpdates", timeout=50))
        ended = await first
        await at.control("/_control/inbound", chat_id=5, text="hi")
        assert [each["message"]["text"] for each in (await second)["result"]] == ["hi"]
    assert (ended["error_code"], ended["description"][:41]) == (409, "Conflict: terminated by other getUpdates ")


async def test_a_webhook_that_is_set_ends_the_poll_and_conflicts_are_slowed_down() -> None:
    async with rig("telegram") as at:
        await _call(at, "deleteWebhook")
        polling = asyncio.create_task(_call(at, "getUpdates", timeout=50))
        await eventually(lambda: at.provider.webhooks.is_polled)  # type: ignore[attr-defined]  # a provider's updates may be other ones
        await _call(at, "deleteWebhook")  # there is none: the poll goes on
        assert not polling.done()
        await _call(at, "setWebhook", url="https://example.org/hook")
        ended = await polling
        began = time.monotonic()
        again = await _call(at, "getUpdates")
        assert time.monotonic() - began >= CONFLICT_SECONDS
    assert (ended["error_code"], ended["description"]) == (409, "Conflict: terminated by setWebhook request")
    assert (again["error_code"], again["description"][:31]) == (409, "Conflict: can't use getUpdates ")


async def test_a_client_that_asks_for_the_same_again_is_slowed_down() -> None:
    async with rig("telegram") as at:
        await _call(at, "deleteWebhook")
        assert (await _call(at, "getUpdates", offset=7))["result"] == []
        began = time.monotonic()
        assert (await _call(at, "getUpdates", offset=7))["result"] == []
        assert time.monotonic() - began >= 3
        for number in range(2):
            await at.control("/_control/inbound", chat_id=5, text=f"t{number}")
        await eventually(lambda: len(at.provider.webhooks._waiting) == 2)  # type: ignore[attr-defined]  # `pending` counts those not due too
        pages = [(await _call(at, "getUpdates", offset=8))["result"] for _ in range(2)]
    assert [len(page) for page in pages] == [2, 1]


async def test_a_refused_chat_waits_and_the_others_continue() -> None:
    async with rig("telegram") as at:
        at.receiver.refusals = 2
        for text in ("a1", "a2"):
            await at.control("/_control/inbound", chat_id=5, text=text)
        await eventually(lambda: not at.receiver.refusals)
        await at.control("/_control/inbound", chat_id=6, text="b1")
        await at.receiver.until(lambda: bool(_updates(at)))
        info = (await _call(at, "getWebhookInfo"))["result"]
        await at.advance_clock(2)
        await at.receiver.until(lambda: len(_updates(at)) == 3)
        lines = await at.log()
    assert [each["message"]["text"] for each in _updates(at)] == ["b1", "a1", "a2"]
    assert info["last_error_message"] == "Wrong response from the webhook: 503 Service Unavailable"
    assert {post.headers["x-telegram-bot-api-secret-token"] for post in at.receiver.posts} == {HOOK_SECRET}
    assert [(line["receipt"], line["tries"]) for line in lines if "receipt" in line] == [
        ("message", 1),
        ("message", 3),
        ("message", 1),
    ]


async def test_an_update_that_is_not_accepted_expires_after_a_day() -> None:
    async with rig("telegram") as at:
        at.receiver.answer_status = 500
        await at.control("/_control/inbound", chat_id=5, text="x")
        await at.receiver.until(lambda: len(at.receiver.posts) == 2)
        await at.advance_clock(86_401)
        await eventually(lambda: not at.provider.webhooks.pending)
        (dropped,) = [line for line in await at.log() if "dropped" in line]
    assert (dropped["dropped"], dropped["why"]) == ("message", "expired")


async def test_a_webhook_is_set_once_a_second_and_chooses_its_updates() -> None:
    async with rig("telegram", is_local=True) as at:
        (url, _) = (at.provider.webhooks.url, await _call(at, "deleteWebhook"))
        assert (await _call(at, "setWebhook", url=url, secret_token="new", allowed_updates=["callback_query"]))["ok"]
        again = await _call(at, "setWebhook", url=url)
        await at.control("/_control/inbound", chat_id=5, text="not wanted")
        await at.control("/_control/inbound", chat_id=5, kind="callback_query", reply_to=1, text="yes")
        await at.receiver.until(lambda: bool(_updates(at)))
    assert (again["error_code"], again["parameters"]) == (429, {"retry_after": 1})
    assert [each["callback_query"]["data"] for each in _updates(at)] == ["yes"]
    assert at.receiver.posts[0].headers["x-telegram-bot-api-secret-token"] == "new"
