"""The Instagram simulator is as strict as the Messaging API: both variants, windows, bytes, echoes and reads, all forms of errors."""

import hashlib
import hmac
import json
from typing import Any

import aiohttp
import pytest

from simulators.provider_limits import ProviderLimits
from tests.support.running_simulators import APP_SECRET, IG_ACCOUNT, IG_TOKEN, Rig, rig

PERSON = "9001000200030004"
BEARER = {"Authorization": f"Bearer {IG_TOKEN}"}
ME = "/v23.0/me/messages"
TEXT = {"message": {"text": "[m-1] hi"}}


async def _send(at: Rig, content: dict[str, Any], path: str = ME, person: str = PERSON) -> tuple[int, Any]:
    return await at.post(path, {"recipient": {"id": person}, **content}, **BEARER)


def _items(at: Rig) -> list[dict[str, Any]]:
    return [item for body in at.receiver.bodies for entry in json.loads(body)["entry"] for item in entry["messaging"]]


@pytest.mark.parametrize(
    "path", [ME, f"/v23.0/{IG_ACCOUNT}/messages", f"/v23.0/1{IG_ACCOUNT}/messages", "/me/messages"]
)
async def test_both_variants_and_all_paths_work(path: str) -> None:
    async with rig("instagram") as at:
        status, answer = await _send(at, TEXT, path)
    assert status == 200
    assert answer["recipient_id"] == PERSON
    assert 150 < len(answer["message_id"]) < 255


async def test_a_token_may_be_in_the_query_and_parameters_in_a_form() -> None:
    fields = {"recipient": json.dumps({"id": PERSON}), "message": json.dumps({"text": "[m-1] x"})}
    proof = hmac.new(APP_SECRET.encode(), IG_TOKEN.encode(), hashlib.sha256).hexdigest()
    async with rig("instagram") as at, aiohttp.ClientSession(at.url) as session:
        answers = []
        for query in (
            {"access_token": IG_TOKEN},
            {"access_token": IG_TOKEN, "appsecret_proof": proof},
            {"access_token": IG_TOKEN, "appsecret_proof": "wrong"},
            {"access_token": "wrong"},
            {},
        ):
            async with session.post(ME, params=query, data=fields) as response:
                answers.append((response.status, (await response.json()).get("error", {}).get("code")))
    assert answers == [(200, None), (200, None), (400, 100), (401, 190), (401, 190)]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"message": {"text": ""}}, 100),
        ({"message": {"text": "é" * 501}}, 100),
        ({"message": {"text": "x", "attachment": {"type": "like_heart"}}}, 100),
        ({"message": {"attachment": {"type": "sticker", "payload": {"url": "https://example.org/a"}}}}, 100),
        ({"message": {"attachment": {"type": "image", "payload": {"url": "a.png"}}}}, 100),
        ({"message": {"attachment": {"type": "file", "payload": {"url": "https://example.org/a.docx"}}}}, 100),
        ({"message": {"text": "x"}, "messaging_type": "MESSAGE_TAG"}, 100),
        ({"message": {"text": "x"}, "messaging_type": "MESSAGE_TAG", "tag": "ACCOUNT_UPDATE"}, 100),
        ({"sender_action": "dance"}, 100),
        ({"sender_action": "react", "payload": {}}, 100),
        ({"recipient": {"id": "ana"}, **TEXT}, 100),
        ({"recipient": {}, **TEXT}, 100),
        ({}, 100),
    ],
)
async def test_a_wrong_body_gets_metas_own_code(content: dict[str, Any], code: int) -> None:
    async with rig("instagram") as at:
        status, answer = await _send(at, content)
    assert (status, answer["error"]["code"]) == (400, code)
    assert "error_data" not in answer["error"]


@pytest.mark.parametrize(
    "message",
    [
        {"text": "é" * 500},
        {"attachment": {"type": "image", "payload": {"url": "https://example.org/a.png"}}},
        {"attachment": {"type": "video", "payload": {"url": "https://example.org/a.mp4"}}},
        {"attachment": {"type": "audio", "payload": {"url": "https://example.org/a.wav"}}},
        {"attachment": {"type": "file", "payload": {"url": "https://example.org/a.pdf"}}},
        {"attachments": [{"type": "image", "payload": {"url": f"https://example.org/{n}.png"}} for n in range(2)]},
        {"attachment": {"type": "like_heart"}},
        {"attachment": {"type": "MEDIA_SHARE", "payload": {"id": "1"}}},
    ],
)
async def test_every_kind_is_accepted_echoed_and_read(message: dict[str, Any]) -> None:
    async with rig("instagram", bare_read_rate=1.0) as at:
        status, answer = await _send(at, {"message": message})
        await at.receiver.until(lambda: len(_items(at)) == 2)
        call, *receipts = await at.log()
    echo, read = _items(at)
    assert status == 200
    assert (echo["sender"]["id"], echo["recipient"]["id"]) == (IG_ACCOUNT, PERSON)
    assert (echo["message"]["mid"], echo["message"]["is_echo"]) == (answer["message_id"], True)
    assert read.keys() == {"timestamp", "read"}
    assert read["read"] == {"mid": call["provider_message_id"]}
    assert [line["receipt"] for line in receipts] == ["echo", "read"]


async def test_an_echo_may_arrive_before_the_answer() -> None:
    async with rig("instagram", early=1.0, receipt_delay_ms=10_000.0) as at:
        _, answer = await _send(at, TEXT)
        assert [item["message"]["mid"] for item in _items(at)] == [answer["message_id"]]


async def test_only_people_who_wrote_are_known_and_their_window_ends() -> None:
    async with rig("instagram", limits=ProviderLimits()) as at:
        stranger = await _send(at, TEXT)
        await at.control("/_control/inbound", **{"from": PERSON, "text": "olá"})
        assert (await _send(at, TEXT))[0] == 200
        await at.advance_clock(24 * 3600)
        late = await _send(at, TEXT)
        tagged = {**TEXT, "messaging_type": "MESSAGE_TAG", "tag": "HUMAN_AGENT"}
        assert (await _send(at, tagged))[0] == 200
        await at.advance_clock(6 * 86_400)
        too_late = await _send(at, tagged)
    assert (stranger[0], stranger[1]["error"]["code"], stranger[1]["error"]["error_subcode"]) == (400, 100, 2534014)
    for status, answer in (late, too_late):
        assert (status, answer["error"]["code"], answer["error"]["error_subcode"]) == (403, 10, 2534022)


async def test_an_error_may_be_in_a_200_and_in_another_language() -> None:
    async with rig("instagram", reject_rate=1.0, hidden_error_rate=1.0, localised_rate=1.0) as at:
        status, answer = await _send(at, TEXT)
        (line,) = await at.log()
    assert (status, answer["error"]["code"], answer["error"]["error_subcode"]) == (200, 100, 2534014)
    assert answer["error"]["message"].startswith("Esta mensagem")
    assert (line["verdict"], line["provider_message_id"]) == ("rejected", None)


async def test_actions_send_nothing_and_answer_the_recipient_only() -> None:
    async with rig("instagram") as at:
        answers = [
            await _send(at, {"sender_action": "mark_seen"}),
            await _send(at, {"sender_action": "typing_on"}),
            await _send(at, {"sender_action": "react", "payload": {"message_id": "m", "reaction": "love"}}),
        ]
        lines = await at.log()
    assert answers == [(200, {"recipient_id": PERSON})] * 3
    assert [(line["kind"], line["provider_message_id"]) for line in lines] == [
        ("mark_read", None),
        ("typing", None),
        ("reaction", None),
    ]


async def test_what_people_do_is_posted_and_conversations_are_shown() -> None:
    async with rig("instagram", limits=ProviderLimits().changed({"reads_per_second": 2})) as at:
        _, written = await at.control("/_control/inbound", **{"from": PERSON, "text": "olá / 🌻"})
        _, ours = await _send(at, TEXT)
        for kind in ("reaction", "read"):
            await at.control("/_control/inbound", **{"from": PERSON, "kind": kind, "reply_to": ours["message_id"]})
        await at.control("/_control/inbound", **{"from": PERSON, "kind": "attachment"})
        await at.receiver.until(lambda: len(_items(at)) == 6)
        _, page = await at.get(f"/v23.0/me/conversations?platform=instagram&user_id={PERSON}", **BEARER)
        await at.get("/v23.0/me/conversations", **BEARER)
        limited = await at.get("/v23.0/me/conversations", **BEARER)
        _, profile = await at.get(f"/v23.0/{PERSON}?fields=username", **BEARER)
        unknown = await at.get("/v23.0/5?fields=username", **BEARER)
    inbound = next(
        item for item in _items(at) if "text" in item.get("message", {}) and "is_echo" not in item["message"]
    )
    assert (inbound["sender"]["id"], inbound["message"]) == (PERSON, {"mid": written["id"], "text": "olá / 🌻"})
    assert isinstance(inbound["timestamp"], int)
    assert b"ol\\u00e1 \\/ \\ud83c" in b"".join(at.receiver.bodies)
    newest, first = page["data"][0]["messages"]["data"]
    assert (newest["id"], newest["from"]["id"], first["message"]) == (ours["message_id"], IG_ACCOUNT, "olá / 🌻")
    assert (limited[0], limited[1]["error"]["code"]) == (429, 4)
    assert profile == {"id": PERSON, "username": "zoe030004"}
    assert unknown[1]["error"]["error_subcode"] == 33


async def test_media_have_a_lower_rate_limit_than_texts() -> None:
    image = {"message": {"attachment": {"type": "video", "payload": {"url": "https://example.org/a.mp4"}}}}
    limits = ProviderLimits().changed({"window_hours": 0, "media_per_second": 1})
    async with rig("instagram", limits=limits) as at:
        first, second = await _send(at, image), await _send(at, image)
        text, _ = await _send(at, TEXT)
        await at.advance_clock(1)
        third = await _send(at, image)
    assert (first[0], second[0], second[1]["error"]["code"], text, third[0]) == (200, 429, 4, 200, 200)
