"""What providers send, of any length and with any characters, becomes records within the limits or is named in `unrecognised`."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connectors.base import Inbound, WebhookItems, WebhookRequest
from connectors.instagram import webhook as instagram_webhook
from connectors.internal.connector import InternalConnector
from connectors.telegram import webhook as telegram_updates
from connectors.webhook_limits import trimmed_to_limits
from connectors.whatsapp import webhook as whatsapp_webhook
from schemas import codec, limit_check
from schemas.client_tokens import ClientToken
from schemas.content import Content, Location, Media
from schemas.ids import inbound_conversation_id, inbound_message_id
from schemas.records import Message, Receipt, ReceiptStatus
from tests.support.webhook_samples import (
    PERSON,
    from_person,
    instagram_body,
    ours,
    status,
    theirs,
    value,
    whatsapp_body,
)

AT = 1_750_857_390_123
ODD = ["a" * 70_000, "\x00", "\x1b[2J\x85", "🌻" * 40_000, "a" * 513, "é" * 130, ""]


def whatsapp(body: Any) -> WebhookItems:
    return whatsapp_webhook.read(json.dumps(body).encode(), AT)


def instagram(body: Any) -> WebhookItems:
    return instagram_webhook.read(json.dumps(body).encode(), AT)


def telegram(body: Any) -> WebhookItems:
    return telegram_updates.read(body, "4242", AT)


def internal(body: Any) -> WebhookItems:
    connector = InternalConnector(account="our-app", tokens=(ClientToken("token"),))
    request = WebhookRequest("POST", {}, {"authorization": "Bearer token"}, json.dumps(body).encode())
    return connector.parse_webhook(request, AT)


def written(**more: Any) -> dict[str, Any]:
    return {
        "from": "15551234567",
        "id": "wamid.in",
        "timestamp": "1750857384",
        "type": "text",
        "text": {"body": "hi"},
    } | more


PLACE = {"latitude": 1.5, "longitude": 2.5, "name": "home", "address": "a street"}
FAILED = status(
    "failed", errors=[{"code": 131026, "title": "no"}], biz_opaque_callback_data="theirs", recipient_participant_id="1"
)
FILE = {"file_id": "f1", "file_name": "a.pdf", "mime_type": "application/pdf", "file_size": 7}
MEDIUM = {"kind": "document", "url": "https://shop.example/a.pdf", "mime_type": "application/pdf", "filename": "a.pdf"}
# reader, and a body with one item of every kind that the channel sends
BODIES: dict[str, tuple[Callable[[Any], WebhookItems], Any]] = {
    "whatsapp": (
        whatsapp,
        json.loads(
            whatsapp_body(
                value(
                    statuses=[FAILED],
                    messages=[
                        written(context={"id": "wamid.0"}),
                        written(type="location", location=PLACE),
                        written(type="reaction", reaction={"message_id": "wamid.1", "emoji": "👍"}),
                        written(type="document", document={"id": "m1", "filename": "a.pdf", "mime_type": "application/pdf"}),
                        written(type="image", image={"url": "https://shop.example/a.jpg", "caption": "look"}),
                    ],
                )
            )
        ),
    ),
    "instagram": (
        instagram,
        json.loads(
            instagram_body(
                from_person(message={"mid": "m1", "text": "hi", "reply_to": {"mid": "m0"}}),
                from_person(message={"mid": "m2", "attachments": [{"type": "image", "payload": {"url": "https://x.example/a"}}]}),
                from_person(reaction={"mid": "m1", "action": "react", "emoji": "👍"}),
                from_person(read={"mid": "m1"}),
                from_person(postback={"mid": "m3", "title": "yes"}),
            )
        ),
    ),
    "telegram": (telegram, {"update_id": 1, "message": theirs(document=FILE, caption="look", reply_to_message=ours())}),
    "telegram, a place": (
        telegram,
        {"update_id": 1, "message": {**theirs(), "location": PLACE, "venue": {"title": "home", "address": "a street"}}},
    ),
    "internal": (
        internal,
        {
            "receipts": [{"delivery_id": "d1", "address": "ana", "status": "failed", "error_code": "e", "error_title": "no"}],
            "messages": [
                {"id": "i1", "address": "ana", "kind": "document", "text": "look", "content": {"media": [MEDIUM], "reply_to": "d0"}},
                {"id": "i2", "address": "ana", "kind": "location", "content": {"location": PLACE}},
                {"id": "i3", "address": "ana", "kind": "reaction", "content": {"reaction": "👍", "reply_to": "d1"}},
            ],
        },
    ),
}  # fmt: skip  # a table of request bodies, one object on a line


def texts(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every text in a body."""
    if isinstance(body, str):
        yield path
    for name, inner in body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ():
        yield from texts(inner, (*path, name))


def with_text(body: Any, path: tuple[Any, ...], text: str) -> Any:
    found = copy.deepcopy(body)
    inner = found
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = text
    return found


def as_message(item: Inbound) -> Message:
    """The message that the gateway makes of it."""
    return Message(
        message_id=inbound_message_id(item.channel, item.account, item.provider_message_id),
        conversation_id=inbound_conversation_id(item.channel, item.account, item.address),
        sender=item.address,
        kind=item.kind,
        text=item.text,
        requested_at=AT,
        metadata={"account": item.account, "provider_message_id": item.provider_message_id, "at": str(item.at)},
        content=item.content,
    )


@pytest.mark.parametrize(("read", "body"), BODIES.values(), ids=BODIES)
def test_any_text_of_a_webhook_may_be_anything_and_what_is_kept_is_within_the_limits(
    read: Callable[[Any], WebhookItems], body: Any
) -> None:
    good = read(body)
    assert good.receipts or good.inbound
    assert not good.unrecognised
    for path in texts(body):
        for odd in ODD:
            items = read(with_text(body, path, odd))
            kept_records: list[Receipt | Message] = [*items.receipts, *map(as_message, items.inbound)]
            for record in kept_records:
                assert limit_check.fault(record) is None, (path, odd[:10])
                assert len(codec.encode(record)) < 1_000_000
            lost = len(good.receipts) + len(good.inbound) - len(items.receipts) - len(items.inbound)
            assert not odd or lost <= 0 or items.unrecognised or items.notices, (path, odd[:10])
            assert all(len(name.encode()) <= 1000 for name in (*items.unrecognised, *items.notices))


def test_an_item_with_a_bad_id_is_named_and_the_others_stay() -> None:
    body = value(statuses=[status(wamid="w" * 800), status(wamid="wamid.B")])
    items = whatsapp(json.loads(whatsapp_body(body)))
    assert [each.provider_message_id for each in items.receipts] == ["wamid.B"]
    (named,) = items.unrecognised
    assert named.startswith("receipt: Receipt.provider_message_id has 800 bytes")


def test_a_title_that_is_too_long_is_cut_and_marked() -> None:
    failed = status("failed", errors=[{"code": 1, "title": "t" * 800_000}])
    (receipt,) = whatsapp(json.loads(whatsapp_body(value(statuses=[failed])))).receipts
    assert receipt.error_title is not None
    assert receipt.error_title.endswith("t […]")
    assert len(receipt.error_title.encode()) == 1000


def test_a_link_that_is_too_long_is_left_out_and_its_message_stays() -> None:
    attachment = {"type": "image", "payload": {"url": "https://x.example/" + "a" * 3000}}
    (item,) = instagram(
        json.loads(instagram_body(from_person(message={"mid": "m", "text": "look", "attachments": [attachment]})))
    ).inbound
    assert (item.text, item.content) == ("look", Content(media=(Media("image"),)))


def test_an_inbound_conversation_has_an_id_however_long_its_parts() -> None:
    long = inbound_conversation_id("whatsapp", "a" * 128, "b" * 256)
    assert len(long) < 256
    assert long != inbound_conversation_id("whatsapp", "a" * 128, "b" * 255 + "c")
    assert inbound_conversation_id("whatsapp", "1", PERSON) == f"whatsapp:1:{PERSON}"


def test_items_within_the_limits_do_not_change() -> None:
    receipt = Receipt(
        event_id="e",
        channel="whatsapp",
        account="1",
        provider_message_id="w",
        status=ReceiptStatus.FAILED,
        provider_at=AT,
        received_at=AT,
        callback_data="theirs",
        error_code="1",
        error_title="no",
    )
    content = Content(
        media=(Media("image", url="https://x.example/a"),), location=Location(1.0, 2.0, "home"), reply_to="w"
    )
    item = Inbound("whatsapp", "1", "2", "w2", "image", "look", AT, content)
    assert trimmed_to_limits(WebhookItems((receipt,), (item,), ("odd",), ("notice",))) == WebhookItems(
        (receipt,), (item,), ("odd",), ("notice",)
    )
