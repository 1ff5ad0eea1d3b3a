"""The process that reads webhooks: `python -m benchmarks.connectors.webhook_costs`. Prints JSON: items per CPU second, by channel.

The requests are those of a busy provider: 100 statuses of WhatsApp, 100 reads of Instagram, one update of Telegram (one in each
POST), 100 receipts of our own clients. The check of the signature and the decoding are included.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.connectors.channel_costs import ACCOUNT, SETTINGS, settings
from connectors.base import WebhookRequest
from connectors.internal.connector import InternalConnector
from connectors.registry import CHANNELS
from schemas.client_tokens import ClientToken

ITEMS = 100
ROUNDS = 7
SECONDS = 0.5
AT = 1_750_857_390_123


def _signed(body: bytes, secret: str) -> WebhookRequest:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return WebhookRequest("POST", {}, {"x-hub-signature-256": f"sha256={signature}"}, body)


def whatsapp() -> WebhookRequest:
    names = ("sent", "delivered", "read")
    statuses = [
        {
            "id": f"wamid.HBgLMTU1NTEyMzQ1NjcVAgARGBI5QTNDQTVCM0Q0Q0Q2RTY3{number:04}",
            "status": names[number % 3],
            "timestamp": "1750857384",
            "recipient_id": "15551234567",
            "biz_opaque_callback_data": f"c4a1|default|{number:032x}|customer-{number}|3|1",
            "conversation": {"id": "d7b1c2", "origin": {"type": "service"}},
            "pricing": {"billable": True, "pricing_model": "PMP", "category": "service", "type": "regular"},
        }
        for number in range(ITEMS)
    ]
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550783881", "phone_number_id": ACCOUNT},
        "statuses": statuses,
    }
    entry = [{"id": "1", "changes": [{"field": "messages", "value": value}]}]
    body = json.dumps({"object": "whatsapp_business_account", "entry": entry}).encode()
    return _signed(body, SETTINGS["whatsapp"]["whatsapp_app_secrets"])


def instagram() -> WebhookRequest:
    account = SETTINGS["instagram"]["instagram_account"]
    reads = [
        {
            "sender": {"id": f"{number + 10**9}"},
            "recipient": {"id": account},
            "timestamp": AT,
            "read": {"mid": "aWdfZAG1faXRlbToxOklHTWVzc2FnZAUlE" + f"{number:0140}"},
        }
        for number in range(ITEMS)
    ]
    body = json.dumps({"object": "instagram", "entry": [{"id": account, "time": AT, "messaging": reads}]}).encode()
    return _signed(body, SETTINGS["instagram"]["instagram_app_secrets"])


def telegram() -> WebhookRequest:
    chat = {"id": 5005, "type": "private", "first_name": "Ana"}
    ours = {"message_id": 42, "from": {"id": 4242, "is_bot": True}, "chat": chat, "date": 1773347800, "text": "hi"}
    message = {
        "message_id": 43,
        "from": {"id": 5005, "is_bot": False, "first_name": "Ana", "language_code": "pt-br"},
        "chat": chat,
        "date": 1773347900,
        "text": "thank you",
        "reply_to_message": ours,
    }
    secret = SETTINGS["telegram"]["telegram_webhook_secret"]
    body = json.dumps({"update_id": 892252934, "message": message}).encode()
    return WebhookRequest("POST", {}, {"x-telegram-bot-api-secret-token": secret}, body)


def internal() -> WebhookRequest:
    receipts = [
        {"delivery_id": f"{number:032x}", "address": "ana", "status": "read", "at": AT} for number in range(ITEMS)
    ]
    return WebhookRequest(
        "POST", {}, {"authorization": "Bearer " + "t" * 32}, json.dumps({"receipts": receipts}).encode()
    )


def rate(parse: Callable[[WebhookRequest, int], Any], request: WebhookRequest) -> float:
    """Items per CPU second, the median of the rounds."""
    items = len(parse(request, AT).receipts)
    rates = []
    for _ in range(ROUNDS):
        began, times = time.process_time(), 0
        while (spent := time.process_time() - began) < SECONDS:
            for _ in range(20):
                parse(request, AT)
            times += 20
        rates.append(times * items / spent)
    return median(rates)


def main() -> None:
    requests = {"whatsapp": whatsapp(), "instagram": instagram(), "telegram": telegram()}
    found = {name: rate(CHANNELS[name].build(settings(name)).parse_webhook, asked) for name, asked in requests.items()}
    found["internal"] = rate(
        InternalConnector(account="app", tokens=(ClientToken("t" * 32),)).parse_webhook, internal()
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
