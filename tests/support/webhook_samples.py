"""Webhook requests in the providers' forms, signed with the secrets of the tests."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from connectors.base import WebhookRequest
from connectors.instagram.connector import InstagramConnector
from connectors.telegram.connector import TelegramConnector
from connectors.whatsapp.connector import WhatsAppConnector

ACCOUNT = "106540352242922"
APP_SECRET = "app-secret-new"
HOOK_SECRET = "hook-secret"
WHATSAPP = WhatsAppConnector(
    url="http://unused",
    version="v23.0",
    account=ACCOUNT,
    token="",
    app_secrets=(APP_SECRET, "app-secret-old"),
    verify_token="verify-me",
)
TELEGRAM = TelegramConnector(url="http://unused", token="4242:unused", webhook_secret=HOOK_SECRET)


def from_meta(body: bytes, secret: str = APP_SECRET) -> WebhookRequest:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return WebhookRequest("POST", {}, {"x-hub-signature-256": f"sha256={signature}"}, body)


def whatsapp_body(*values: Mapping[str, Any]) -> bytes:
    """One entry for each value, escaped as Meta escapes."""
    entries = [{"id": "1", "changes": [{"field": "messages", "value": value}]} for value in values]
    return json.dumps({"object": "whatsapp_business_account", "entry": entries}).replace("/", "\\/").encode()


def value(**content: Any) -> dict[str, Any]:
    metadata = {"display_phone_number": "15550783881", "phone_number_id": ACCOUNT}
    return {"messaging_product": "whatsapp", "metadata": metadata, **content}


def status(name: str = "sent", wamid: str = "wamid.A", **more: Any) -> dict[str, Any]:
    return {"id": wamid, "status": name, "timestamp": "1750857384", "recipient_id": "15551234567", **more}


def from_telegram(update: object, secret: str = HOOK_SECRET) -> WebhookRequest:
    body = update if isinstance(update, bytes) else json.dumps(update).encode()
    return WebhookRequest("POST", {}, {"x-telegram-bot-api-secret-token": secret}, body)


def ours(message_id: int = 42) -> dict[str, Any]:
    return {
        "message_id": message_id,
        "from": {"id": 4242, "is_bot": True, "first_name": "B"},
        "chat": {"id": 5005, "type": "private"},
        "date": 1773347800,
        "text": "hi",
    }


def theirs(**more: Any) -> dict[str, Any]:
    return ours(43) | {"from": {"id": 5005, "is_bot": False, "first_name": "Ana"}, "date": 1773347900, **more}


PROFESSIONAL, PERSON = "17841405822304914", "1254459154682919"
INSTAGRAM = InstagramConnector(url="http://unused", version="v23.0", account=PROFESSIONAL, app_secrets=APP_SECRET)


def instagram_body(*items: object, **entry: Any) -> bytes:
    """One entry of our account, escaped as Meta escapes."""
    place = {"id": PROFESSIONAL, "time": 1773347860136, "messaging": list(items)} | entry
    return json.dumps({"object": "instagram", "entry": [place]}).replace("/", "\\/").encode()


def from_person(**content: Any) -> dict[str, Any]:
    return {
        "sender": {"id": PERSON},
        "recipient": {"id": PROFESSIONAL},
        "timestamp": 1773347859458,
        **content,
    }


def echo(mid: str = "aWdf1", **more: Any) -> dict[str, Any]:
    """The echo of a message that our account sent."""
    sent = {"mid": mid, "text": "hi", "is_echo": True, **more}
    return from_person(message=sent) | {"sender": {"id": PROFESSIONAL}, "recipient": {"id": PERSON}}
