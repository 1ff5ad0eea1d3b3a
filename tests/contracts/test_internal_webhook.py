"""How our own clients confirm and write: bearer tokens, each item separately, and confirming twice changes nothing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Forbidden, WebhookItems, WebhookRequest
from connectors.internal.connector import InternalConnector
from pipelines import gateway
from schemas import codec
from schemas.client_tokens import ClientToken
from schemas.content import Content, Location, Media
from schemas.ids import shown_id
from schemas.partitions import home_partition
from schemas.records import CursorReport, Receipt, ReceiptStatus
from tests.support.builders import examples

AT = 1_750_857_390_123
TOKEN = "token-new"
INTERNAL = InternalConnector(account="our-app", tokens=(ClientToken(TOKEN), ClientToken("token-old")))
SHOWN = shown_id("dlv-1", "default", "ana")


def _request(body: object, token: str = TOKEN) -> WebhookRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return WebhookRequest("POST", {}, {"authorization": f"Bearer {token}"}, raw)


def _read(body: object) -> WebhookItems:
    return INTERNAL.parse_webhook(_request(body), AT)


def test_a_client_confirms_delivered_read_and_failed() -> None:
    items = _read({"receipts": [{"delivery_id": "dlv-1", "address": "ana", "status": "delivered", "at": AT - 5}]})
    assert items == WebhookItems(
        own_tenants=True,
        receipts=(
            Receipt(
                event_id=f"internal:our-app:{SHOWN}:delivered",
                channel="internal",
                account="our-app",
                provider_message_id=SHOWN,
                status=ReceiptStatus.DELIVERED,
                provider_at=AT - 5,
                received_at=AT,
            ),
        ),
    )
    read = _read({"receipts": [{"delivery_id": "dlv-1", "address": "ana", "status": "read"}]}).receipts[0]
    assert (read.status, read.provider_at, read.event_id) == (
        ReceiptStatus.READ,
        AT,
        f"internal:our-app:{SHOWN}:read",
    )
    failed = {
        "delivery_id": "dlv-1",
        "address": "ana",
        "status": "failed",
        "error_code": "full",
        "error_title": "no room",
    }
    (receipt,) = _read({"receipts": [failed]}).receipts
    assert (receipt.status, receipt.error_code, receipt.error_title) == (ReceiptStatus.FAILED, "full", "no room")


def test_confirming_twice_is_the_same_event() -> None:
    one = {"delivery_id": "dlv-1", "address": "ana", "status": "read", "at": AT - 5}
    first, second = _read({"receipts": [one, one | {"at": AT - 1}]}).receipts
    assert first.event_id == second.event_id


def test_a_person_writes_from_our_client() -> None:
    said = {
        "media": [{"kind": "image", "url": "https://example.org/a.jpg", "mime_type": "image/jpeg", "size": 9}],
        "reply_to": "dlv-1",
    }
    message = {"id": "m-1", "address": "ana", "kind": "image", "text": "olá", "at": AT - 7, "content": said}
    (inbound,) = _read({"messages": [message]}).inbound
    assert (inbound.account, inbound.address, inbound.provider_message_id) == ("our-app", "ana", "m-1")
    assert (inbound.kind, inbound.text, inbound.at) == ("image", "olá", AT - 7)
    media = Media("image", url="https://example.org/a.jpg", mime_type="image/jpeg", size=9)
    assert inbound.content == Content(media=(media,), reply_to="dlv-1")
    place = {
        "id": "m-2",
        "address": "ana",
        "kind": "location",
        "content": {"location": {"latitude": 1, "longitude": 2}},
    }
    (located,) = _read({"messages": [place]}).inbound
    assert located.content == Content(location=Location(1.0, 2.0))
    (plain,) = _read({"messages": [{"id": "m-3", "address": "ana", "kind": "text", "text": "a"}]}).inbound
    assert (plain.content, plain.at) == (None, AT)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", ("body: not a JSON object",)),
        ([], ("body: not a JSON object",)),
        ({"receipts": 3}, ("receipts is not a list",)),
        ({"receipts": [3]}, ("receipts: receipts is not an object",)),
        ({"receipts": [{"status": "read"}]}, ("receipts: delivery_id is not a text",)),
        ({"receipts": [{"delivery_id": "a", "status": "read"}]}, ("receipts: address is not a text",)),
        (
            {"receipts": [{"delivery_id": "a", "address": "ana", "status": "seen"}]},
            ("receipts: status seen is none of delivered, read, failed",),
        ),
        ({"receipts": [{"delivery_id": "a", "address": "ana", "status": "read", "at": "soon"}]}, ("receipts: at is not a whole number",)),
        ({"receipts": [{"delivery_id": "a", "address": "ana", "status": "read", "at": -1}]}, ("receipts: at is not a time",)),
        ({"messages": [{"id": "a", "kind": "text"}]}, ("messages: address is not a text",)),
        (
            {"messages": [{"id": "a", "address": "b", "kind": "location", "content": {"location": {"latitude": "n"}}}]},
            ("messages: latitude is not a number",),
        ),
        ({"messages": [{"id": "a", "address": "b", "kind": "text", "content": 3}]}, ("messages: content is not an object",)),
    ],
)  # fmt: skip  # a table, one case on a line
def test_an_item_that_cannot_be_read_is_named(body: object, named: tuple[str, ...]) -> None:
    assert _read(body) == WebhookItems(unrecognised=named, own_tenants=True)


def test_an_unknown_kind_is_named() -> None:
    (named,) = _read({"messages": [{"id": "a", "address": "b", "kind": "pigeon"}]}).unrecognised
    assert "kind pigeon is none of text, template" in named


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("delivery_id", "status", "at", "id", "address", "kind", "text", "content", "media", "location", "reply_to")


@examples(150)
@given(odd=st.lists(st.dictionaries(st.sampled_from(FIELDS), ANYTHING) | ANYTHING, max_size=4))
def test_one_bad_item_never_loses_the_rest_and_every_item_can_be_encoded(odd: list[Any]) -> None:
    good = {"delivery_id": "dlv-1", "address": "ana", "status": "read"}
    written = {"id": "m-1", "address": "ana", "kind": "text", "text": "a"}
    changed = [written | each for each in odd if isinstance(each, dict)]
    items = _read({"receipts": [*odd, good, *odd], "messages": [*odd, *changed, written]})
    assert SHOWN in [each.provider_message_id for each in items.receipts]
    assert "m-1" in [each.provider_message_id for each in items.inbound]
    assert len(items.receipts) + len(items.inbound) + len(items.unrecognised) == 3 * len(odd) + len(changed) + 2
    for receipt in items.receipts:
        codec.encode(receipt)
    for inbound in items.inbound:
        gateway._inbound(inbound, AT, None)


@pytest.mark.parametrize("token", ["", "token", "token-new ", "token-newer", "Bearer token-new", "tökén"])
def test_only_our_tokens_may_post(token: str) -> None:
    with pytest.raises(Forbidden):
        INTERNAL.parse_webhook(_request({}, token), AT)


def test_both_tokens_may_post_and_without_tokens_no_request_is_accepted() -> None:
    assert INTERNAL.parse_webhook(_request({}, "token-old"), AT) == WebhookItems(own_tenants=True)
    for headers in ({}, {"authorization": ""}, {"authorization": "Bearer "}):
        for tokens in ((), (ClientToken("token-new"),)):
            with pytest.raises(Forbidden):
                InternalConnector(account="a", tokens=tokens).parse_webhook(
                    WebhookRequest("POST", {}, headers, b"{}"), AT
                )


def test_a_client_says_how_far_it_has_received_and_read() -> None:
    said = {"conversation_id": "c-1", "address": "ana", "delivered_up_to": 7, "read_up_to": 5, "at": AT - 9}
    (report,) = _read({"cursors": [said]}).reports
    assert (report.conversation_id, report.address, report.delivered_up_to, report.read_up_to) == ("c-1", "ana", 7, 5)
    assert (report.occurred_at, report.observed_at, report.account) == (AT - 9, AT, "our-app")
    (only_read,) = _read({"cursors": [{"conversation_id": "c-1", "address": "ana", "read_up_to": 5}]}).reports
    assert (only_read.delivered_up_to, only_read.read_up_to, only_read.occurred_at) == (None, 5, AT)
    assert report.event_id != only_read.event_id


@pytest.mark.parametrize(
    "wrong",
    [
        {"conversation_id": "c-1", "address": "ana"},
        {"conversation_id": "c-1", "read_up_to": 5},
        {"address": "ana", "read_up_to": 5},
        {"conversation_id": "c-1", "address": "ana", "read_up_to": -1},
        {"conversation_id": "c-1", "address": "ana", "read_up_to": 2**60},
        {"conversation_id": "c" * 257, "address": "ana", "read_up_to": 5},
        {"conversation_id": "c-1", "address": "ana", "read_up_to": "five"},
        {"conversation_id": "c-1", "address": "ana", "read_up_to": 5, "at": 10**18},
    ],
)
def test_a_cursor_that_cannot_be_read_is_named_and_the_others_stay(wrong: dict[str, Any]) -> None:
    items = _read({"cursors": [wrong, {"conversation_id": "c-2", "address": "bia", "read_up_to": 1}]})
    assert [report.conversation_id for report in items.reports] == ["c-2"]
    assert len(items.unrecognised) == 1


def test_a_report_goes_to_the_home_partition_of_its_conversation() -> None:
    (report,) = _read({"cursors": [{"conversation_id": "c-1", "address": "ana", "read_up_to": 5}]}).reports
    produced = gateway._report(report, 12)
    assert (produced.topic, produced.key) == ("cursor-reports", b"c-1")
    found = codec.decode(produced.value, CursorReport)
    assert found.home_partition == produced.partition == home_partition("c-1", 12)
