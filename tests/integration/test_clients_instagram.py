"""hiinsta and Meta's own SDK (facebook-business), unmodified, against the Instagram simulator.

hiinsta speaks JSON with a bearer token to graph.instagram.com without a version; the SDK speaks forms with the token in the query and a
proof of the app's secret to graph.facebook.com. The tests replace each client's own base URL by the simulator's.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from facebook_business.adobjects.iguser import IGUser
from facebook_business.adobjects.page import Page
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession
from hiinsta import InstagramMessenger
from hiinsta.types.exeptions import InstagramApiException
from hiinsta.webhooks import verify_signature

from simulators.provider_limits import ProviderLimits
from tests.support.running_simulators import APP_SECRET, IG_ACCOUNT, IG_TOKEN, Rig, rig

PERSON = "9001000200030004"
LINK = "https://example.org/a"


@asynccontextmanager
async def _hiinsta(monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[tuple[InstagramMessenger, Rig]]:
    async with rig("instagram", **options) as at:
        # In the package, the class hides the module of the same name.
        monkeypatch.setattr(sys.modules["hiinsta.InstagramMessenger"], "INSTAGRAM_BASE_URL", at.url)
        yield InstagramMessenger(IG_TOKEN, request_timeout=2), at


async def test_hiinsta_sends_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _hiinsta(monkeypatch) as (messenger, at):
        mids = [
            await messenger.send_text("[m-1] olá 🌻", PERSON),
            await messenger.send_image(LINK + ".png", PERSON),
            await messenger.send_video(LINK + ".mp4", PERSON),
            await messenger.send_audio(LINK + ".wav", PERSON),
            await messenger.send_file(LINK + ".pdf", PERSON),
        ]
        # It expects a message_id for sender actions too, which Meta's answer never had: {"recipient_id": ...} only.
        for action in (messenger.send_typing_indicator, messenger.send_read_receipt):
            with pytest.raises(InstagramApiException, match="Missing message_id"):
                await action(PERSON)
        lines = [line for line in await at.log() if "verdict" in line]
    assert [line["provider_message_id"] for line in lines] == [*mids, None, None]
    assert [line["kind"] for line in lines] == ["text", "image", "video", "audio", "document", "typing", "mark_read"]
    assert {line["verdict"] for line in lines} == {"accepted"}


async def test_hiinsta_reads_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _hiinsta(monkeypatch, limits=ProviderLimits()) as (messenger, at):
        with pytest.raises(InstagramApiException) as stranger:
            await messenger.send_text("x", PERSON)
        await at.control("/_control/inbound", **{"from": PERSON, "text": "olá"})
        assert (await messenger.get_user_data(PERSON)).username == "zoe030004"
        await at.advance_clock(86_400)
        with pytest.raises(InstagramApiException) as late:
            await messenger.send_text("x", PERSON)
        found = []
        for code in (4, 2, 190, 200, 368, 551, 613, 1200):
            await at.control("/_control/account", code=code)
            with pytest.raises(InstagramApiException) as refused:
                await messenger.send_text("x", PERSON)
            found.append((refused.value.error_code, refused.value.status_code))
        await at.control("/_control/account")
        await at.control("/_control/inbound", **{"from": PERSON, "text": "again"})
        await at.control("/_control/faults", error_rate=1.0)
        with pytest.raises(InstagramApiException, match="status=502"):
            await messenger.send_text("x", PERSON)
        await at.control("/_control/faults", error_rate=0.0, reject_rate=1.0, hidden_error_rate=1.0)
        with pytest.raises(InstagramApiException) as hidden:
            await messenger.send_text("x", PERSON)
    assert (stranger.value.error_code, stranger.value.status_code) == ("100", 400)
    assert (late.value.error_code, late.value.status_code) == ("10", 403)
    assert found == [
        ("4", 429),
        ("2", 503),
        ("190", 401),
        ("200", 403),
        ("368", 403),
        ("551", 400),
        ("613", 400),
        ("1200", 500),
    ]
    assert hidden.value.status_code == 200
    assert (hidden.value.response_json or {})["error"]["code"] == 100


async def test_hiinsta_reads_what_the_simulator_posts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _hiinsta(monkeypatch, bare_read_rate=1.0) as (messenger, at):
        mid = await messenger.send_text("[m-1] x", PERSON)
        for wanted in (
            {"text": "olá / 🌻", "reply_to": mid},
            {"kind": "attachment", "content": {"type": "image", "payload": {"url": LINK}}},
            {"kind": "reaction", "reply_to": mid},
            {"kind": "postback", "text": "Start"},
            {"kind": "edit", "reply_to": mid, "text": "new"},
            {"kind": "deleted", "reply_to": mid},
            {"kind": "unsupported"},
            {"kind": "referral", "text": "ref"},
        ):
            await at.control("/_control/inbound", **{"from": PERSON, **wanted})
        await at.receiver.until(
            lambda: sum(len(json.loads(body)["entry"][0]["messaging"]) for body in at.receiver.bodies) == 10
        )
    seen: dict[str, list[Any]] = {}
    for post in at.receiver.posts:
        assert verify_signature(APP_SECRET, post.body, post.headers["x-hub-signature-256"])
        for item, _ in messenger.process_payload(json.loads(post.body)).iter_messaging():
            seen.setdefault(str(item.event_type), []).append(item)
    assert {kind: len(items) for kind, items in seen.items()} == {
        "message": 5,
        "read": 1,
        "reaction": 1,
        "postback": 1,
        "message_edit": 1,
        "referral": 1,
    }
    (echo,) = [item for item in seen["message"] if item.message.is_echo]
    assert (echo.message.mid, echo.sender.id, echo.recipient.id) == (mid, IG_ACCOUNT, PERSON)
    assert (seen["read"][0].read.mid, seen["read"][0].sender) == (mid, None)
    assert seen["reaction"][0].reaction.mid == mid
    reply = next(item for item in seen["message"] if item.message.reply_to is not None)
    assert (reply.message.text, reply.message.reply_to.mid) == ("olá / 🌻", mid)


@asynccontextmanager
async def _sdk(monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[tuple[FacebookAdsApi, Rig]]:
    async with rig("instagram", **options) as at:
        monkeypatch.setattr(FacebookSession, "GRAPH", at.url)
        session = FacebookSession(app_secret=APP_SECRET, access_token=IG_TOKEN, timeout=5)
        try:
            yield FacebookAdsApi(session, api_version="v23.0"), at
        finally:
            session.requests.close()


async def test_metas_sdk_sends_by_account_and_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _sdk(monkeypatch) as (api, at):
        account, page = IGUser(IG_ACCOUNT, api=api), Page(f"1{IG_ACCOUNT}", api=api)
        recipient = {"id": PERSON}
        image = {"attachment": {"type": "image", "payload": {"url": LINK + ".png"}}}
        sent = [
            await asyncio.to_thread(
                account.create_message, params={"recipient": recipient, "message": {"text": "[m-1] olá 🌻"}}
            ),
            await asyncio.to_thread(page.create_message, params={"recipient": recipient, "message": image}),
        ]
        uploaded = await asyncio.to_thread(page.create_message_attachment, params={"message": image})
        again = {"attachment": {"type": "image", "payload": {"attachment_id": uploaded["attachment_id"]}}}
        sent.append(await asyncio.to_thread(account.create_message, params={"recipient": recipient, "message": again}))
        lines = [line for line in await at.log() if "verdict" in line]
    assert [each["message_id"] for each in sent] == [
        line["provider_message_id"] for line in lines if line["kind"] != "upload"
    ]
    assert [line["kind"] for line in lines] == ["text", "image", "upload", "image"]


async def test_metas_sdk_reads_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    message = {"recipient": {"id": PERSON}, "message": {"text": "x"}}
    async with _sdk(monkeypatch, limits=ProviderLimits()) as (api, at):
        account = IGUser(IG_ACCOUNT, api=api)
        with pytest.raises(FacebookRequestError) as stranger:
            await asyncio.to_thread(account.create_message, params=message)
        await at.control("/_control/inbound", **{"from": PERSON, "text": "olá"})
        await at.advance_clock(86_400)
        with pytest.raises(FacebookRequestError) as late:
            await asyncio.to_thread(account.create_message, params=message)
        await at.control("/_control/people", address=PERSON, code=1200)
        with pytest.raises(FacebookRequestError) as broken:
            await asyncio.to_thread(account.create_message, params=message)
    assert (stranger.value.api_error_code(), stranger.value.api_error_subcode()) == (100, 2534014)
    assert (late.value.http_status(), late.value.api_error_code(), late.value.api_error_subcode()) == (403, 10, 2534022)
    assert broken.value.api_transient_error() is True
