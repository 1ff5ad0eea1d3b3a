"""Our connectors of Meta's channels against the strict simulators: every kind is accepted, every receipt is read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from connectors.base import Connector
from connectors.instagram.connector import InstagramConnector
from connectors.whatsapp.connector import WhatsAppConnector
from schemas import tracker
from schemas.content import Content, Location, LongText, Media, Template
from schemas.outcomes import Accepted, Outcome, Rejected
from schemas.records import Delivery, ReceiptStatus
from simulators.provider_limits import ProviderLimits
from tests.support.builders import TRACKER_KEYS, delivery
from tests.support.running_simulators import ACCOUNT, APP_SECRET, IG_ACCOUNT, IG_TOKEN, TOKEN, Receiver, Rig, rig

PERSON = {"whatsapp": "15551234567", "instagram": "9001000200030004"}


def connector(channel: str, url: str) -> Connector:
    if channel == "instagram":
        return InstagramConnector(url=url, version="v23.0", account=IG_ACCOUNT, token=IG_TOKEN, app_secrets=APP_SECRET)
    return WhatsAppConnector(
        url=url, version="v23.0", account=ACCOUNT, token=TOKEN, app_secrets=APP_SECRET, tracker_keys=TRACKER_KEYS
    )


@asynccontextmanager
async def meeting(channel: str, **options: Any) -> AsyncIterator[tuple[Rig, Connector]]:
    reader = connector(channel, "http://unused")
    async with rig(channel, receiver=Receiver(reader), **options) as at:
        made = connector(channel, at.url)
        try:
            yield at, made
        finally:
            await made.close()
            await reader.close()


def sent(channel: str, **changes: Any) -> Delivery:
    return delivery(channel=channel, account="", address=PERSON[channel], **changes)


async def send(made: Connector, what: Delivery) -> list[Outcome]:
    """Sends every part, as stage send does."""
    return [await made.send(what, part + 1, part) for part in range(made.parts(what))]


def file(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "content": Content(media=(Media(kind, url=f"https://example.org/{name}", **more),))}


LONG = {"text": "some words " * 500, "content": Content(long_text=LongText.SPLIT)}
KINDS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a text on WhatsApp": ("whatsapp", {}, ["text"]),
    "a long text on WhatsApp": ("whatsapp", LONG, ["text", "text"]),
    "an image on WhatsApp": ("whatsapp", file("image", "a.jpg"), ["image"]),
    "a document on WhatsApp": ("whatsapp", file("document", "a.pdf", filename="a.pdf"), ["document"]),
    "an audio on WhatsApp": ("whatsapp", file("audio", "a.mp3") | {"text": ""}, ["audio"]),
    "a video on WhatsApp": ("whatsapp", file("video", "a.mp4"), ["video"]),
    "a sticker on WhatsApp": ("whatsapp", file("sticker", "a.webp") | {"text": ""}, ["sticker"]),
    "a place on WhatsApp": (
        "whatsapp",
        {"kind": "location", "text": "", "content": Content(location=Location(-23.5, -46.6, "Loja"))},
        ["location"],
    ),
    "a template on WhatsApp": (
        "whatsapp",
        {"kind": "template", "text": "", "content": Content(template=Template("hello_world", "en_US"))},
        ["template"],
    ),
    "a template with all components on WhatsApp": (
        "whatsapp",
        {
            "kind": "template",
            "text": "",
            "content": Content(
                media=(Media("image", url="https://example.org/a.jpg"),),
                template=Template("order_photo", "en_US", body=("Ana",), buttons=("1001",)),
            ),
        },
        ["template"],
    ),
    "a text on Instagram": ("instagram", {}, ["text"]),
    "a long text on Instagram": ("instagram", LONG, ["text"] * 6),
    "an image with a text on Instagram": ("instagram", file("image", "a.jpg"), ["image", "text"]),
    "a video on Instagram": ("instagram", file("video", "a.mp4") | {"text": ""}, ["video"]),
    "an audio on Instagram": ("instagram", file("audio", "a.m4a") | {"text": ""}, ["audio"]),
    "a document on Instagram": ("instagram", file("document", "a.pdf") | {"text": ""}, ["document"]),
    "the heart on Instagram": (
        "instagram",
        {"kind": "sticker", "text": "", "content": Content(media=(Media("sticker", provider_media_id="like_heart"),))},
        ["sticker"],
    ),
}


@pytest.mark.parametrize(("channel", "changes", "kinds"), KINDS.values(), ids=KINDS)
async def test_every_kind_is_accepted_and_its_receipts_are_read(
    channel: str, changes: dict[str, Any], kinds: list[str]
) -> None:
    what = sent(channel, **changes)
    expected = {ReceiptStatus.SENT, ReceiptStatus.READ} | (
        {ReceiptStatus.DELIVERED} if channel == "whatsapp" else set()
    )
    async with meeting(channel) as (at, made):
        outcomes = await send(made, what)
        await at.receiver.until(lambda: len(at.receiver.receipts) >= len(expected) * len(kinds))
        calls = [line for line in await at.log() if "verdict" in line]
    assert [call["kind"] for call in calls] == kinds
    ids = [provider_id for each in outcomes if isinstance(each, Accepted) for provider_id in each.provider_ids]
    assert ids == [call["provider_message_id"] for call in calls]
    assert {(each.provider_message_id, each.status) for each in at.receiver.receipts} == {
        (provider_id, status) for provider_id in ids for status in expected
    }
    assert at.receiver.unrecognised == []
    if channel == "whatsapp":
        for receipt in at.receiver.receipts:
            tracked = tracker.decode(receipt.callback_data, TRACKER_KEYS, channel, receipt.account)
            assert tracked is not None
            assert tracked.partial == (receipt.provider_message_id != ids[-1])


@pytest.mark.parametrize("channel", sorted(PERSON))
async def test_reactions_and_signals_refer_to_the_persons_message(channel: str) -> None:
    async with meeting(channel) as (at, made):
        _, written = await at.control("/_control/inbound", **{"from": PERSON[channel], "text": "olá"})
        about = Content(reply_to=written["id"], reaction="❤️")
        signs = [sent(channel, kind=kind, text="", content=about) for kind in ("reaction", "mark_read", "typing")]
        if channel == "instagram":
            signs[1:] = [sent(channel, kind=kind, text="") for kind in ("mark_read", "typing")]
        outcomes = [outcome for sign in signs for outcome in await send(made, sign)]
        await at.receiver.until(lambda: bool(at.receiver.inbound))
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 3, outcomes
    assert outcomes[1:] == [Accepted(()), Accepted(())]
    assert [(each.address, each.text) for each in at.receiver.inbound] == [(PERSON[channel], "olá")]


@pytest.mark.parametrize(("channel", "code"), [("whatsapp", "131047"), ("instagram", "10")])
async def test_outside_the_window_nothing_is_accepted(channel: str, code: str) -> None:
    windows = ProviderLimits().changed({"window_hours": 24})
    async with meeting(channel, limits=windows, sync_window_rate=1.0) as (at, made):
        await at.control("/_control/inbound", **{"from": PERSON[channel], "text": "olá"})
        first = await made.send(sent(channel), 1)
        await at.advance_clock(25 * 3600)
        later = await made.send(sent(channel), 1)
    assert isinstance(first, Accepted)
    assert isinstance(later, Rejected)
    assert later.code == code
