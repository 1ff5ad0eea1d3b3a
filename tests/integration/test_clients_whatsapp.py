"""pywa, an independent client of the WhatsApp Cloud API, unmodified, against the simulator.

A hook of the httpx client that pywa takes as an argument redirects it to the simulator; everything else is pywa's own code.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pywa.errors import ReEngagementMessage, TooManyMessages, WhatsAppError
from pywa_async import WhatsApp
from pywa_async.types import Button, CallbackButton, Contact, Message, MessageStatus
from pywa_async.types.templates import BodyText, TemplateLanguage

from simulators import graph_api
from simulators.provider_limits import ProviderLimits
from tests.support.running_simulators import ACCOUNT, APP_SECRET, TOKEN, Rig, rig

PERSON = "15551234567"
PNG = b"\x89PNG\r\n\x1a\n"
LINK = "https://example.org/a"


@asynccontextmanager
async def pywa(**options: Any) -> AsyncIterator[tuple[WhatsApp, Rig]]:
    # pywa reads the first status of a webhook only, and needs the contacts that Meta added in 2026.
    async with rig("whatsapp", **{"batch": 1.0, "plain_rate": 0.0, **options}) as at:
        simulator = httpx.URL(at.url)

        async def redirect(request: httpx.Request) -> None:
            request.url = request.url.copy_with(scheme="http", host=simulator.host, port=simulator.port)

        async with httpx.AsyncClient(event_hooks={"request": [redirect]}) as session:
            secrets = {"app_secret": APP_SECRET, "verify_token": "verify-me"}
            yield WhatsApp(phone_id=ACCOUNT, token=TOKEN, session=session, server=None, **secrets), at


async def _hand_over(wa: WhatsApp, at: Rig) -> None:
    """Passes what the simulator posted to pywa: first to its check of the signature, then to its handlers."""
    for post in at.receiver.posts:
        assert await wa.webhook_update_validator(post.body, post.headers["x-hub-signature-256"]) is None
        assert await wa.webhook_update_handler(post.body) == ("ok", 200)


async def test_every_kind_is_sent() -> None:
    async with pywa() as (wa, at):
        text = await wa.send_message(PERSON, "[m-1] olá", tracker="corr-1", preview_url=True)
        await wa.send_message(PERSON, "[m-2] a reply", reply_to_message_id=text.id)
        await wa.send_message(PERSON, "[m-3] choose", buttons=[Button("Yes", "yes"), Button("No", "no")])
        await wa.send_image(PERSON, LINK + ".png", caption="[m-4] x")
        await wa.send_document(PERSON, LINK + ".pdf", filename="a.pdf", caption="[m-5] x")
        await wa.send_video(PERSON, LINK + ".mp4")
        await wa.send_audio(PERSON, LINK + ".mp3")
        await wa.send_voice(PERSON, LINK + ".ogg")
        await wa.send_sticker(PERSON, LINK + ".webp")
        await wa.send_location(PERSON, -23.5, -46.6, name="here", address="there")
        await wa.send_contact(
            PERSON, Contact(name=Contact.Name(formatted_name="Ana", first_name="Ana"), phones=[Contact.Phone("1")])
        )
        await wa.send_reaction(PERSON, "👍", text.id)
        await wa.remove_reaction(PERSON, text.id)
        template = await wa.send_template(PERSON, "order_shipped", TemplateLanguage.ENGLISH_US, [BodyText.params("42")])
        lines = [line for line in await at.log() if "verdict" in line]
    assert [line["kind"] for line in lines] == [
        "text", "text", "interactive", "image", "document", "video", "audio", "audio", "sticker", "location", "contacts",
        "reaction", "reaction", "template",
    ]  # fmt: skip  # a list of words, several on a line
    assert {line["verdict"] for line in lines} == {"accepted"}
    assert (lines[0]["provider_message_id"], lines[0]["tracker"]) == (text.id, "corr-1")
    assert lines[-1]["provider_message_id"] == template.id


async def test_media_are_uploaded_downloaded_and_sent() -> None:
    async with pywa() as (wa, _):
        uploaded = await wa.upload_media(PNG, mime_type="image/png", filename="a.png")
        await wa.send_image(PERSON, uploaded)
        await wa.send_image(PERSON, PNG, mime_type="image/png")  # pywa uploads it first
        described = await wa.get_media_url(uploaded.id)
        assert await wa.get_media_bytes(described.url) == PNG
        assert (described.mime_type, int(described.file_size)) == ("image/png", len(PNG))
        assert (await wa.delete_media(uploaded.id)).success
        with pytest.raises(WhatsAppError) as gone:
            await wa.get_media_url(uploaded.id)
    assert (gone.value.code, gone.value.subcode) == (100, 33)


async def test_the_number_is_described() -> None:
    async with pywa() as (wa, _):
        number = await wa.get_business_phone_number()
    assert (number.id, number.display_phone_number, number.verified_name) == (ACCOUNT, "15550783881", "Demo")


KNOWN = sorted(code for code in graph_api.ERRORS if WhatsAppError._get_exception(code) is not WhatsAppError)


async def test_every_error_pywa_knows_is_recognised() -> None:
    assert len(KNOWN) > 35
    async with pywa() as (wa, at):
        for code in KNOWN:
            await at.control("/_control/people", address=PERSON, code=code)
            with pytest.raises(WhatsAppError) as refused:
                await wa.send_message(PERSON, "x")
            assert type(refused.value) is WhatsAppError._get_exception(code)
            assert (refused.value.code, refused.value.status_code) == (code, graph_api.ERRORS[code][0])
            assert refused.value.fbtrace_id


async def test_a_wrong_token_and_an_html_error_page() -> None:
    async with pywa(error_rate=1.0) as (wa, at):
        with pytest.raises(WhatsAppError) as broken:
            await wa.send_message(PERSON, "x")
        await at.control("/_control/account", code=190, subcode=463)
        with pytest.raises(WhatsAppError) as expired:
            await wa.send_message(PERSON, "x")
    assert (broken.value.code, "502 Bad Gateway" in broken.value.message) == (502, True)
    assert (expired.value.code, expired.value.status_code) == (190, 401)


async def test_a_pair_limit_is_reached_and_ends() -> None:
    limits = ProviderLimits().changed({"window_hours": 0, "pair_burst": 2})
    async with pywa(limits=limits) as (wa, at):
        await wa.send_message(PERSON, "1")
        await wa.send_message(PERSON, "2")
        with pytest.raises(TooManyMessages):
            await wa.send_message(PERSON, "3")
        await at.advance_clock(6)
        assert (await wa.send_message(PERSON, "4")).id


async def test_statuses_and_messages_reach_pywas_handlers() -> None:
    statuses: list[MessageStatus] = []
    messages: list[Message] = []
    pressed: list[CallbackButton] = []

    async def on_status(_: WhatsApp, status: MessageStatus) -> None:
        statuses.append(status)

    async def on_message(_: WhatsApp, message: Message) -> None:
        messages.append(message)

    async def on_button(_: WhatsApp, button: CallbackButton) -> None:
        pressed.append(button)

    async with pywa(receipt_delay_ms=1.0) as (wa, at):
        wa.on_message_status()(on_status)
        wa.on_message()(on_message)
        wa.on_callback_button()(on_button)
        sent = await wa.send_message(PERSON, "[m-1] x", tracker="corr-1")
        failing = await wa.send_image(PERSON, "https://gone.invalid/a.png")
        for kind in ("image", "document", "audio", "video", "sticker"):
            await at.control("/_control/inbound", **{"from": PERSON, "kind": kind})
        await at.control("/_control/inbound", **{"from": PERSON, "text": "olá / 🌻", "reply_to": sent.id})
        await at.control(
            "/_control/inbound", **{"from": PERSON, "kind": "location", "content": {"latitude": 1.5, "longitude": 2.5}}
        )
        await at.control("/_control/inbound", **{"from": PERSON, "kind": "reaction", "reply_to": sent.id})
        await at.control("/_control/inbound", **{"from": PERSON, "kind": "unsupported"})
        reply = {"type": "button_reply", "button_reply": {"id": "yes", "title": "Yes"}}
        await at.control(
            "/_control/inbound", **{"from": PERSON, "kind": "interactive", "content": reply, "reply_to": sent.id}
        )
        await at.receiver.until(lambda: len(at.receiver.posts) == 14)
        await _hand_over(wa, at)
        assert await messages[-1].mark_as_read()
        assert await messages[-1].indicate_typing()
        kinds = [line["kind"] for line in await at.log() if "kind" in line][-2:]
    assert [each.status.value for each in statuses if each.id == sent.id] == ["sent", "delivered", "read"]
    assert {each.tracker for each in statuses if each.id == sent.id} == {"corr-1"}
    (failed,) = [each for each in statuses if each.id == failing.id]
    assert failed.error is not None
    assert failed.error.code == 131053
    text = next(each for each in messages if each.text is not None)
    assert (text.text, text.from_user.wa_id, text.reply_to_message.id) == ("olá / 🌻", PERSON, sent.id)
    assert {each.type.value for each in messages} == {
        "image", "document", "audio", "video", "sticker", "text", "location", "reaction", "unsupported"
    }  # fmt: skip  # a list of words, several on a line
    assert pressed[0].title == "Yes"
    assert kinds == ["mark_read", "typing"]


async def test_a_failure_outside_the_window_is_pywas_re_engagement() -> None:
    failures: list[MessageStatus] = []

    async def on_status(_: WhatsApp, status: MessageStatus) -> None:
        failures.append(status)

    async with pywa(limits=ProviderLimits()) as (wa, at):
        wa.on_message_status()(on_status)
        await wa.send_message(PERSON, "x")
        await at.receiver.until(lambda: bool(at.receiver.posts))
        await _hand_over(wa, at)
    assert isinstance(failures[0].error, ReEngagementMessage)
