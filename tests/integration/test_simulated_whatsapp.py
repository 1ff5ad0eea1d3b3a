"""The WhatsApp simulator is as strict as the Cloud API: bodies, limits, windows, media, templates, failures reported by receipts."""

import hashlib
import hmac
import json
from typing import Any

import aiohttp
import pytest

from simulators.provider_limits import ProviderLimits, Windows
from simulators.whatsapp_bodies import canonical
from tests.support.running_simulators import ACCOUNT, APP_SECRET, TOKEN, Rig, rig

PERSON = "15551234567"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MESSAGES = f"/v23.0/{ACCOUNT}/messages"
TEXT = {"type": "text", "text": {"body": "[m-1] hi"}}
WAMID = "wamid.HBgLMTU1NTEyMzQ1NjcVAgARGBI"
PNG = b"\x89PNG\r\n\x1a\n"


async def _send(at: Rig, content: dict[str, Any], to: str = PERSON) -> tuple[int, Any]:
    return await at.post(MESSAGES, {"messaging_product": "whatsapp", "to": to, **content}, **BEARER)


def _items(at: Rig, kind: str) -> list[dict[str, Any]]:
    """Every item of this kind in all webhooks, in the order they arrived."""
    return [
        item
        for body in at.receiver.bodies
        for entry in json.loads(body)["entry"]
        for change in entry["changes"]
        for item in change["value"].get(kind, [])
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"type": "text", "text": {"body": 5}}, 100),
        ({"type": "text", "text": {"body": "x", "preview": True}}, 100),
        ({"type": "text", "text": {"body": "x", "preview_url": "yes"}}, 100),
        ({**TEXT, "context": {"message_id": "5"}}, 131009),
        ({**TEXT, "recipient_type": "crowd"}, 100),
        ({"type": "image", "image": {}}, 131008),
        ({"type": "image", "image": {"id": "1", "link": "https://example.org/a.png"}}, 131009),
        ({"type": "image", "image": {"link": "ftp://example.org/a.png"}}, 100),
        ({"type": "image", "image": {"id": "123"}}, 131009),
        ({"type": "image", "image": {"link": "https://example.org/a.png", "caption": "x" * 1025}}, 100),
        ({"type": "audio", "audio": {"link": "https://example.org/a.ogg", "caption": "x"}}, 100),
        ({"type": "image", "image": {"link": "https://example.org/a.png", "filename": "a"}}, 100),
        ({"type": "location", "location": {"latitude": 91, "longitude": 0}}, 131009),
        ({"type": "location", "location": {"latitude": 1}}, 131008),
        ({"type": "reaction", "reaction": {"message_id": "x", "emoji": "👍"}}, 131009),
        ({"type": "reaction", "reaction": {"message_id": WAMID, "emoji": "yes"}}, 131009),
        ({"type": "template", "template": {"name": "order_shipped", "language": {"code": "en_US"}}}, 132000),
        ({"type": "template", "template": {"name": "nobody_made_it", "language": {"code": "en_US"}}}, 132001),
        ({"type": "template", "template": {"name": "Upper", "language": {"code": "en_US"}}}, 131009),
        ({"type": "template", "template": {"name": "hello_world", "language": "en_US"}}, 131008),
        ({"type": "interactive", "interactive": {"type": "button", "body": {"text": "x"}, "action": {}}}, 131009),
        ({"status": "delivered", "message_id": WAMID}, 100),
        ({"status": "read", "message_id": "5"}, 131009),
    ],
)
async def test_a_wrong_body_gets_metas_own_code(content: dict[str, Any], code: int) -> None:
    async with rig("whatsapp") as at:
        status, answer = await _send(at, content)
        (line,) = await at.log()
    error = answer["error"]
    assert (status, error["code"]) == (404 if code == 132001 else 400, code)
    assert error["message"].startswith(f"(#{code})")
    assert error["type"] == "OAuthException"
    assert (line["verdict"], line["provider_message_id"], line["recipient"]) == ("rejected", None, PERSON)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "image", "image": {"link": "https://example.org/a.png", "caption": "[m-1] x"}},
        {"type": "document", "document": {"link": "https://example.org/a.pdf", "filename": "a.pdf"}},
        {"type": "audio", "audio": {"link": "https://example.org/a.mp3"}},
        {"type": "video", "video": {"link": "https://example.org/a.mp4"}},
        {"type": "sticker", "sticker": {"link": "https://example.org/a.webp"}},
        {"type": "location", "location": {"latitude": -23.5, "longitude": -46.6, "name": "here"}},
        {"type": "reaction", "reaction": {"message_id": WAMID, "emoji": "👍"}},
        {"type": "contacts", "contacts": [{"name": {"formatted_name": "Ana"}}]},
    ],
)
async def test_every_kind_is_accepted_and_has_a_status(content: dict[str, Any]) -> None:
    async with rig("whatsapp") as at:
        status, answer = await _send(at, content)
        await at.receiver.until(lambda: bool(_items(at, "statuses")))
        (call, *_) = await at.log()
    assert status == 200
    assert call["kind"] == content["type"]
    assert _items(at, "statuses")[0]["id"] == answer["messages"][0]["id"]


async def test_a_template_counts_its_parameters_and_says_it_was_accepted() -> None:
    parameters = [{"type": "text", "text": "42"}]
    template = {
        "name": "order_shipped",
        "language": {"code": "en_US"},
        "components": [{"type": "body", "parameters": parameters}],
    }
    async with rig("whatsapp", limits=ProviderLimits()) as at:
        status, answer = await _send(at, {"type": "template", "template": template})
        await at.receiver.until(lambda: len(_items(at, "statuses")) == 3)
        await at.control("/_control/templates", name="order_shipped", parameters={"body": 1}, state="paused")
        paused = await _send(at, {"type": "template", "template": template})
    assert (status, answer["messages"][0]["message_status"]) == (200, "accepted")
    assert _items(at, "statuses")[0]["conversation"]["origin"] == {"type": "utility"}
    assert (paused[0], paused[1]["error"]["code"]) == (400, 132015)


async def test_outside_the_window_a_text_is_accepted_and_fails_later() -> None:
    async with rig("whatsapp", limits=ProviderLimits()) as at:
        status, answer = await _send(at, TEXT)
        await at.receiver.until(lambda: bool(_items(at, "statuses")))
        (failed,) = _items(at, "statuses")
        await at.control("/_control/inbound", **{"from": PERSON, "text": "hello"})
        await _send(at, TEXT)
        await at.receiver.until(lambda: len(_items(at, "statuses")) == 4)
        await at.advance_clock(24 * 3600)
        await _send(at, TEXT)
        await at.receiver.until(lambda: len(_items(at, "statuses")) == 5)
        await at.control("/_control/faults", sync_window_rate=1.0)
        at_once = await _send(at, TEXT)
    assert (status, failed["id"], failed["status"]) == (200, answer["messages"][0]["id"], "failed")
    assert failed["errors"][0]["code"] == 131047
    assert [each["status"] for each in _items(at, "statuses")] == ["failed", "sent", "delivered", "read", "failed"]
    assert (at_once[0], at_once[1]["error"]["code"]) == (400, 131047)


async def test_a_person_stops_and_resumes_marketing_messages() -> None:
    """The webhook is Meta's, and a marketing template fails until they resume; others do not."""
    parameters = [{"type": "text", "text": "1"}] * 2
    sale = {"name": "season_sale", "language": {"code": "en_US"}}
    wanted = {"type": "template", "template": sale | {"components": [{"type": "body", "parameters": parameters}]}}
    async with rig("whatsapp") as at:
        await at.control("/_control/preferences", **{"from": f"+{PERSON}", "value": "stop"})
        await at.receiver.until(lambda: bool(_items(at, "user_preferences")))
        await _send(at, wanted)
        await at.receiver.until(lambda: len(_items(at, "statuses")) == 1)
        await _send(at, TEXT)
        await at.receiver.until(lambda: len(_items(at, "statuses")) == 4)
        await at.control("/_control/preferences", **{"from": PERSON, "value": "resume"})
        await at.receiver.until(lambda: len(_items(at, "user_preferences")) == 2)
        await _send(at, wanted)
        await at.receiver.until(lambda: len(_items(at, "statuses")) == 7)
        wrong = await at.post("/_control/preferences", {"from": PERSON, "value": "pause"})
    stopped, resumed = _items(at, "user_preferences")
    assert {name: each for name, each in stopped.items() if name != "timestamp"} == {
        "wa_id": PERSON,
        "detail": "User requested to stop marketing messages",
        "category": "marketing_messages",
        "value": "stop",
    }
    assert isinstance(stopped["timestamp"], int)
    assert resumed["value"] == "resume"
    failed, *later = _items(at, "statuses")
    assert (failed["status"], failed["errors"][0]["code"]) == ("failed", 131050)
    assert "failed" not in {each["status"] for each in later}
    assert wrong[0] == 400


async def test_a_pair_has_a_burst_of_45_and_then_one_in_six_seconds() -> None:
    limits = ProviderLimits().changed({"window_hours": 0, "account_per_second": 0})
    async with rig("whatsapp", limits=limits, receipt_delay_ms=1000.0) as at:
        codes = [(await _send(at, TEXT))[1].get("error", {}).get("code") for _ in range(46)]
        other, _ = await _send(at, TEXT, "15557654321")
        await at.advance_clock(6)
        again = [(await _send(at, TEXT))[0] for _ in range(2)]
        lines = await at.log()
    assert codes == [None] * 45 + [131056]
    assert other == 200
    assert again == [200, 429]
    assert [line["verdict"] for line in lines if line.get("status") == 429] == ["throttled", "throttled"]


async def test_a_number_sends_80_a_second() -> None:
    limits = ProviderLimits().changed({"window_hours": 0})
    async with rig("whatsapp", limits=limits, latency_ms=0.0) as at:
        buckets = at.provider._buckets  # type: ignore[attr-defined]  # set to empty here: 80 calls may take longer than a second
        buckets._full_at[""] = at.provider.clock.now() + 60_000.0
        status, answer = await _send(at, TEXT)
        await at.advance_clock(60)
        after, _ = await _send(at, TEXT)
    assert (status, answer["error"]["code"], after) == (429, 130429, 200)


async def test_media_are_uploaded_sent_described_downloaded_and_expire() -> None:
    async with rig("whatsapp") as at, aiohttp.ClientSession(at.url, headers=BEARER) as session:
        form = aiohttp.FormData({"messaging_product": "whatsapp", "type": "image/png"})
        form.add_field("file", PNG, filename="a.png", content_type="image/png")
        async with session.post(f"/v23.0/{ACCOUNT}/media", data=form) as response:
            media_id = (await response.json())["id"]
        assert (await _send(at, {"type": "image", "image": {"id": media_id}}))[0] == 200
        mismatch = await _send(at, {"type": "video", "video": {"id": media_id}})
        _, described = await at.get(f"/v23.0/{media_id}", **BEARER)
        async with session.get(described["url"]) as response:
            content = await response.read()
        async with aiohttp.ClientSession() as stranger, stranger.get(described["url"]) as response:
            assert response.status == 401
        await at.advance_clock(301)
        async with session.get(described["url"]) as response:
            assert response.status == 404
        await at.advance_clock(30 * 86_400)
        gone = await at.get(f"/v23.0/{media_id}", **BEARER)
    assert content == PNG
    assert mismatch[1]["error"]["code"] == 131009
    assert (described["mime_type"], described["file_size"]) == ("image/png", "8")
    assert described["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert (gone[0], gone[1]["error"]["code"], gone[1]["error"]["error_subcode"]) == (400, 100, 33)


async def test_a_bad_link_fails_by_a_receipt() -> None:
    async with rig("whatsapp") as at:
        status, _ = await _send(at, {"type": "image", "image": {"link": "https://gone.invalid/a.png"}})
        await at.receiver.until(lambda: bool(_items(at, "statuses")))
    assert status == 200
    assert _items(at, "statuses")[0]["errors"][0]["code"] == 131053


@pytest.mark.parametrize("code", [131026, 131049, 131053])
async def test_a_message_may_fail_after_it_was_sent(code: int) -> None:
    async with rig("whatsapp", fail_rate=1.0, fail_code=float(code)) as at:
        await _send(at, TEXT)
        await at.receiver.until(lambda: len(_items(at, "statuses")) == 2)
    assert [each["status"] for each in _items(at, "statuses")] == ["sent", "failed"]
    assert _items(at, "statuses")[1]["errors"][0]["code"] == code


async def test_some_people_cannot_be_reached_and_a_number_can_be_locked() -> None:
    async with rig("whatsapp") as at:
        await at.control("/_control/people", address=PERSON, code=131050)
        person = await _send(at, TEXT)
        await at.control("/_control/people", address=PERSON, code=131049, later=True)
        assert (await _send(at, TEXT))[0] == 200
        await at.receiver.until(lambda: bool(_items(at, "statuses")))
        await at.control("/_control/account", code=131031)
        locked = await _send(at, TEXT, "15557654321")
        await at.control("/_control/account", code=190, subcode=463)
        expired = await _send(at, TEXT)
    assert (person[0], person[1]["error"]["code"]) == (400, 131050)
    assert _items(at, "statuses")[0]["errors"][0]["code"] == 131049
    assert (locked[0], locked[1]["error"]["code"]) == (403, 131031)
    assert (expired[0], expired[1]["error"]["error_subcode"]) == (401, 463)


async def test_webhooks_are_verified_signed_and_remembered_in_the_history() -> None:
    async with rig("whatsapp") as at:
        assert (await at.control("/_control/verify", verify_token="verify-me"))[1] == {"status": 200, "verified": True}
        assert (await at.control("/_control/verify", verify_token="wrong"))[1] == {"status": 403, "verified": False}
        _, answer = await _send(at, TEXT | {"biz_opaque_callback_data": "olá/1"})
        await at.receiver.until(lambda: len(_items(at, "statuses")) == 3)
        await at.advance_clock(2)
        asked = f"/v23.0/{ACCOUNT}/message_history?message_id={answer['messages'][0]['id']}"
        _, history = await at.get(asked, **BEARER)
        _, chosen = await at.get(f"{asked}&fields=message_id,events{{delivery_status}}&limit=100", **BEARER)
        wrong = [
            await at.get(f"{asked}&{more}", **BEARER) for more in ("fields=status", "fields=events{a}", "limit=101")
        ]
    for post in at.receiver.posts:
        digest = hmac.new(APP_SECRET.encode(), post.body, hashlib.sha256).hexdigest()
        assert post.headers["x-hub-signature-256"] == f"sha256={digest}"
        assert post.body.isascii()
    sent, delivered, _ = _items(at, "statuses")
    assert sent["biz_opaque_callback_data"] == "olá/1"
    assert "expiration_timestamp" in sent["conversation"]
    assert "expiration_timestamp" not in delivered["conversation"]
    assert [each["delivery_status"] for each in history["data"][0]["events"]["data"]] == ["SENT", "DELIVERED", "READ"]
    assert chosen["data"][0]["events"]["data"][0].keys() == {"id", "delivery_status"}
    assert [(status, refused["error"]["code"]) for status, refused in wrong] == [(400, 100)] * 3


async def test_marking_as_read_needs_a_message_of_a_person() -> None:
    async with rig("whatsapp", limits=ProviderLimits()) as at:
        _, written = await at.control("/_control/inbound", **{"from": PERSON, "kind": "image"})
        marked = await at.post(
            MESSAGES, {"messaging_product": "whatsapp", "status": "read", "message_id": written["id"]}, **BEARER
        )
        unknown = await at.post(
            MESSAGES, {"messaging_product": "whatsapp", "status": "read", "message_id": WAMID}, **BEARER
        )
        await at.receiver.until(lambda: bool(_items(at, "messages")))
        image = _items(at, "messages")[0]["image"]
        _, described = await at.get(f"/v23.0/{image['id']}", **BEARER)
        lines = await at.log()
    assert marked == (200, {"success": True})
    assert unknown[1]["error"]["code"] == 100
    assert described["sha256"] == image["sha256"]
    assert [line["provider_message_id"] for line in lines if line.get("kind") == "mark_read"] == [None, None]


@pytest.mark.parametrize(
    ("number", "wa_id"),
    [
        ("+1 (555) 123-4567", "15551234567"),
        ("5531987654321", "553187654321"),
        ("5511987654321", "5511987654321"),
        ("525512345678", "5215512345678"),
        ("541123456789", "5491123456789"),
        ("IN.2081978709342942", "IN.2081978709342942"),
    ],
)
def test_a_wa_id_may_differ_from_the_number_that_was_dialled(number: str, wa_id: str) -> None:
    assert canonical(number) == wa_id


def test_a_window_ends_exactly_after_its_hours() -> None:
    windows = Windows()
    windows.open("1", 0)
    assert windows.is_open("1", 86_399_999, 24)
    assert not windows.is_open("1", 86_400_000, 24)
    assert not windows.is_open("2", 0, 24)
    assert windows.is_open("2", 0, 0)
