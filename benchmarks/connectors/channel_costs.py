"""Sample data of each channel that calls a provider: made-up settings, deliveries, and the provider's answer to a text."""

from typing import Any

import orjson

from schemas.records import Delivery
from schemas.settings import Settings

ACCOUNT = "106540352242922"
SETTINGS: dict[str, dict[str, Any]] = {
    "whatsapp": {
        "whatsapp_account": ACCOUNT,
        "whatsapp_token": "EAA" + "x" * 180,
        "whatsapp_app_secrets": "s" * 32,
    },
    "telegram": {"telegram_token": "4242:" + "x" * 35, "telegram_webhook_secret": "s" * 32},
    "instagram": {
        "instagram_account": "17841400000000000",
        "instagram_token": "IGAA" + "x" * 180,
        "instagram_app_secrets": "s" * 32,
    },
}
ANSWERS = {
    "whatsapp": {
        "messaging_product": "whatsapp",
        "contacts": [{"input": "15551234567", "wa_id": "15551234567"}],
        "messages": [{"id": "wamid.HBgLMTU1NTEyMzQ1NjcVAgARGBI5QTNDQTVCM0Q0Q0Q2RTY3RTcA"}],
    },
    "telegram": {
        "ok": True,
        "result": {
            "message_id": 42,
            "from": {"id": 4242, "is_bot": True, "first_name": "B", "username": "b_bot"},
            "chat": {"id": 5005, "type": "private", "first_name": "Ana"},
            "date": 1773347800,
            "text": "Your order 1001 is on its way and will be with you tomorrow between nine and eleven.",
        },
    },
    "instagram": {"recipient_id": "5551234567", "message_id": "aWdfZAG1faXRlbToxOklHTWVzc2FnZAUlE" + "x" * 140},
}
TEXT = "Your order {} is on its way and will be with you tomorrow between nine and eleven."


def settings(channel: str, url: str = "") -> Settings:
    return Settings.model_validate({**SETTINGS[channel], f"{channel}_url": url, "log_format": "json"})


def answer(channel: str) -> bytes:
    return orjson.dumps(ANSWERS[channel])


def deliveries(channel: str, count: int) -> list[Delivery]:
    """Texts to a thousand people, as in a campaign."""
    return [
        Delivery(
            delivery_id=f"{number:032x}",
            message_id=f"order-{number}",
            conversation_id=f"customer-{number % 1000}",
            home_partition=number % 12,
            seq=number,
            channel=channel,
            account="",
            recipient=f"customer-{number % 1000}",
            address=str(15550000000 + number % 1000),
            kind="text",
            text=TEXT.format(number),
            requested_at=1_700_000_000_000,
            accepted_at=1_700_000_000_100,
        )
        for number in range(count)
    ]
