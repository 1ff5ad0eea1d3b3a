"""The webhooks that the benchmark posts: signed by the app secret, with WhatsApp statuses whose trackers are signed by our key.

Enters: numbers, secrets. Leaves: whole HTTP requests as bytes, each prepared once, so that the sender costs little.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

from benchmarks.connectors import bare_http
from schemas import tracker
from schemas.records import Delivery

PATH = "/webhooks/whatsapp"
PARTITIONS = 4
ACCOUNTS = 10  # business numbers of one app; each may post CHAT4ALL_GATEWAY_ACCOUNT_RATE requests a second
NAMES = ("sent", "delivered", "read")


def account(number: int) -> str:
    return str(106_540_352_242_922 + number % ACCOUNTS)


def batch(first: int, count: int, secret: str, keys: tracker.Keys) -> bytes:
    """A request with `count` statuses of one account, for deliveries from number `first` on."""
    ours = account(first // count)
    statuses = [
        status(
            f"wamid.HBgLMTU1NTEyMzQ1NjcVAgARGBI5QTNDQTVCM0Q0Q0Q2RTY3{number:06}",
            NAMES[number % 3],
            1_750_857_384,
            tracker.encode(_delivery(number, ours), 1, keys),
        )
        for number in range(first, first + count)
    ]
    return request(ours, statuses, secret)


def status(provider_id: str, name: str, at: int, tracked: str | None) -> dict[str, Any]:
    """One status as Meta writes it; `at` is Unix seconds."""
    return {
        "id": provider_id,
        "status": name,
        "timestamp": str(at),
        "recipient_id": "15551234567",
        **({} if tracked is None else {"biz_opaque_callback_data": tracked}),
        "conversation": {"id": "d7b1c2", "origin": {"type": "service"}},
        "pricing": {"billable": True, "pricing_model": "PMP", "category": "service", "type": "regular"},
    }


def request(ours: str, statuses: Sequence[dict[str, Any]], secret: str) -> bytes:
    metadata = {"display_phone_number": "15550783881", "phone_number_id": ours}
    value = {"messaging_product": "whatsapp", "metadata": metadata, "statuses": statuses}
    entry = {"id": "1", "changes": [{"field": "messages", "value": value}]}
    body = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}"}
    return bare_http.request(PATH, headers, body)


def _delivery(number: int, ours: str) -> Delivery:
    return Delivery(
        delivery_id=f"{number:032x}",
        message_id=f"order-{number}",
        conversation_id=f"customer-{number % 1000}",
        home_partition=number % PARTITIONS,
        seq=1,
        channel="whatsapp",
        account=ours,
        recipient="15551234567",
        address="15551234567",
        kind="text",
        text="",
        requested_at=0,
        accepted_at=0,
    )
