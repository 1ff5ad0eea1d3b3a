"""Reads a request of our own clients: receipts that they confirm, how far they have read, and messages that they write.

What enters: the JSON of POST /webhooks/internal, and the token of the request. What leaves: receipts, reports and inbound messages, and the
names of items that cannot be read. Guaranteed: pure; when the token may not speak for the person of one item, nothing of the request is
kept. docs/internal.md is the contract.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from connectors.base import ForbiddenItem, Inbound, WebhookItems
from connectors.json_fields import (
    Node,
    Unexpected,
    decode,
    items,
    milliseconds,
    node,
    number,
    optional_text,
    optional_whole,
    text,
    whole,
    word,
)
from schemas.client_tokens import ClientToken
from schemas.content import Content, Location, Media
from schemas.ids import shown_id
from schemas.keys import DEFAULT_TENANT
from schemas.records import KINDS, CursorReport, Receipt, ReceiptStatus

CHANNEL = "internal"
_STATUSES = {"delivered": ReceiptStatus.DELIVERED, "read": ReceiptStatus.READ, "failed": ReceiptStatus.FAILED}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """One request of a client: its account, the tenant that owns the account (None: all tenants share it), its token and its time."""

    account: str
    owner: str | None
    token: ClientToken
    received_at: int

    def items(self, raw: bytes) -> WebhookItems:
        """The items of the JSON, not yet within our limits. Raises ForbiddenItem when the token may not speak for a person in it."""
        body = decode(raw)
        if not isinstance(body, dict):
            return WebhookItems(unrecognised=("body: not a JSON object",), own_tenants=True)
        receipts, odd_receipts = _each(body, "receipts", self._receipt)
        inbound, odd_messages = _each(body, "messages", self._inbound)
        reports, odd_reports = _each(body, "cursors", self._report)
        odd = odd_receipts + odd_messages + odd_reports
        return WebhookItems(receipts, inbound, odd, reports=reports, own_tenants=True)

    def _tenant_and_person(self, item: Node) -> tuple[str, str]:
        """Tenant and person that an item names. Raises ForbiddenItem when the token may not speak for them."""
        named = None if item.get("tenant_id") is None else text(item, "tenant_id")
        tenant = named or self.token.tenant or self.owner or DEFAULT_TENANT
        person = text(item, "address")
        if not self.token.speaks_for(tenant, person) or self.owner not in (None, tenant):
            raise ForbiddenItem("the token does not speak for the tenant or the person of an item")
        return tenant, person

    def _receipt(self, item: Node) -> Receipt:
        delivery_id, name = text(item, "delivery_id"), text(item, "status")
        tenant, person = self._tenant_and_person(item)
        if name not in _STATUSES:
            raise Unexpected(f"status {word(name)} is none of {', '.join(_STATUSES)}")
        shown = shown_id(delivery_id, tenant, person)
        return Receipt(
            tenant_id=tenant,
            event_id=f"internal:{self.account}:{shown}:{name}",
            channel=CHANNEL,
            account=self.account,
            provider_message_id=shown,
            status=_STATUSES[name],
            provider_at=milliseconds(item, "at", self.received_at),
            received_at=self.received_at,
            error_code=optional_text(item, "error_code"),
            error_title=optional_text(item, "error_title"),
        )

    def _report(self, item: Node) -> CursorReport:
        conversation_id = text(item, "conversation_id")
        tenant, person = self._tenant_and_person(item)
        up_to = [None if item.get(name) is None else whole(item, name) for name in ("delivered_up_to", "read_up_to")]
        if up_to == [None, None]:
            raise Unexpected("neither delivered_up_to nor read_up_to is given")
        said = ":".join("-" if seq is None else str(seq) for seq in up_to)
        return CursorReport(
            tenant_id=tenant,
            event_id=f"internal:{self.account}:{tenant}:{conversation_id}:{person}:{said}",
            conversation_id=conversation_id,
            home_partition=0,  # the gateway knows it
            channel=CHANNEL,
            account=self.account,
            address=person,
            delivered_up_to=up_to[0],
            read_up_to=up_to[1],
            occurred_at=milliseconds(item, "at", self.received_at),
            observed_at=self.received_at,
        )

    def _inbound(self, item: Node) -> Inbound:
        tenant, person = self._tenant_and_person(item)
        kind = text(item, "kind")
        if kind not in KINDS:
            raise Unexpected(f"kind {word(kind)} is none of {', '.join(KINDS)}")
        return Inbound(
            channel=CHANNEL,
            account=self.account,
            address=person,
            provider_message_id=text(item, "id"),
            kind=kind,
            text=optional_text(item, "text") or "",
            at=milliseconds(item, "at", self.received_at),
            content=_content(node(item["content"], "content")) if item.get("content") is not None else None,
            tenant_id=tenant,
        )


def _each(body: Node, name: str, read: Callable[[Node], T]) -> tuple[tuple[T, ...], tuple[str, ...]]:
    """The items of a list that can be read, and the names of the others."""
    found: list[T] = []
    odd: list[str] = []
    try:
        for item in items(body, name):
            try:
                found.append(read(node(item, name)))
            except Unexpected as why:
                odd.append(f"{name}: {why}")
    except Unexpected as why:
        odd.append(str(why))
    return tuple(found), tuple(odd)


def _content(said: Node) -> Content:
    """The part of a Content that a person can write; the fields have the names of schemas/avro/message.v2.avsc."""
    place = said.get("location")
    return Content(
        media=tuple(_medium(node(item, "medium")) for item in items(said, "media")),
        location=None if place is None else _location(node(place, "location")),
        reply_to=optional_text(said, "reply_to"),
        reaction=optional_text(said, "reaction"),
    )


def _medium(medium: Node) -> Media:
    return Media(
        kind=text(medium, "kind"),
        url=optional_text(medium, "url"),
        provider_media_id=optional_text(medium, "provider_media_id"),
        mime_type=optional_text(medium, "mime_type") or "",
        filename=optional_text(medium, "filename"),
        size=optional_whole(medium, "size"),
    )


def _location(place: Node) -> Location:
    return Location(
        number(place, "latitude"),
        number(place, "longitude"),
        optional_text(place, "name") or "",
        optional_text(place, "address") or "",
    )
