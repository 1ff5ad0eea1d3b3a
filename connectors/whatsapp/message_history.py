"""Reads the history of a message of the WhatsApp Cloud API: the statuses that its webhooks reported, or should have.

What enters: the JSON of GET /<version>/<phone number id>/message_history?message_id=<wamid>. What leaves: the same receipts that the
webhooks give (webhook.py), with the same event ids. Guaranteed: pure; an event that we do not know is left out.
https://developers.facebook.com/docs/graph-api/reference/whats-app-business-account-to-number-current-status/message_history
"""

from urllib.parse import quote, urlencode

from connectors.base import WebhookItems
from connectors.json_fields import Node, Unexpected, child, items, node, optional_text, seconds_as_ms, text
from connectors.webhook_limits import trimmed_to_limits
from connectors.whatsapp.webhook import CHANNEL, event_id
from schemas.records import Receipt, ReceiptStatus

_FIELDS = "id,message_id,events{delivery_status,webhook_update_state,timestamp,error_description}"
_MOST = 100  # the API's own limit of a page; a message has a handful of events
# SENT is left out: the delivery is SENT already. DELETED says nothing about the person.
_STATUSES = {"DELIVERED": ReceiptStatus.DELIVERED, "READ": ReceiptStatus.READ, "FAILED": ReceiptStatus.FAILED}


def query(wamid: str) -> str:
    """The query part of the URL."""
    return urlencode({"message_id": wamid, "fields": _FIELDS, "limit": _MOST}, quote_via=quote)


def receipts(body: object, account: str, wamid: str, received_at: int) -> tuple[Receipt, ...]:
    """The receipts in an answer about message `wamid` of our `account`, in its order; `received_at` is Unix milliseconds. Raises Unexpected
    for a body in another form."""
    found: dict[str, Receipt] = {}
    for each in items(node(body, "answer"), "data"):
        history = node(each, "history")
        if text(history, "message_id") != wamid:
            continue
        for event in items(child(history, "events"), "data") if "events" in history else ():
            receipt = _receipt(node(event, "event"), account, wamid, received_at)
            if receipt is not None:
                found.setdefault(receipt.event_id, receipt)
    return trimmed_to_limits(WebhookItems(tuple(found.values()))).receipts


def _receipt(event: Node, account: str, wamid: str, received_at: int) -> Receipt | None:
    """None for an event that is no receipt, or has no readable time."""
    try:
        name, at = text(event, "delivery_status"), seconds_as_ms(event, "timestamp")
    except Unexpected:
        return None
    status = _STATUSES.get(name)
    if status is None:
        return None
    return Receipt(
        event_id=event_id(account, wamid, name.lower()),
        channel=CHANNEL,
        account=account,
        provider_message_id=wamid,
        status=status,
        provider_at=at,
        received_at=received_at,
        error_title=optional_text(event, "error_description") if status is ReceiptStatus.FAILED else None,
    )
