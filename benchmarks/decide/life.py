"""The inputs of the benchmark: messages of the load's own scenario, ids of accepted calls, and the receipts of each channel.

Enters: numbers. Leaves: settings, messages, receipts. All are made up and the same in every run.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from loadgen.scenario import Scenario
from pipelines.engine.stage import Call, Output
from schemas import codec, tracker
from schemas.keys import contact_key, key_of
from schemas.records import CHANNELS, Contact, Delivery, Message, Receipt, ReceiptStatus
from schemas.settings import Settings

START = 1_790_000_000_000  # Unix milliseconds
CONVERSATIONS = 3000
SETTINGS = MappingProxyType(
    {
        "whatsapp_account": "106540352242922",
        "whatsapp_token": "token",
        "telegram_token": "7310256241:token",
        "instagram_account": "17841405309213115",
        "instagram_token": "token",
        "internal_account": "app",
        "tracker_keys": "0" * 64,
        "partitions": 1,
        "send_concurrency": 500,
    }
)
# Older commits run this too; their trackers have no keys.
_KEYS_IN: Any = getattr(tracker, "keys_in", None)
_TRACKER_KEYS = () if _KEYS_IN is None else (_KEYS_IN(SETTINGS["tracker_keys"]),)
# The receipts of each channel for a message, in order; every second READ is left out.
_RECEIPTS: Mapping[str, tuple[ReceiptStatus, ...]] = MappingProxyType(
    {
        "whatsapp": (ReceiptStatus.SENT, ReceiptStatus.DELIVERED, ReceiptStatus.READ),
        "telegram": (ReceiptStatus.READ,),
        "instagram": (ReceiptStatus.SENT, ReceiptStatus.READ),
        "internal": (ReceiptStatus.DELIVERED, ReceiptStatus.READ),
    }
)
_DELAY_MS = 700  # between two receipts


def settings() -> Settings:
    return Settings(**SETTINGS)  # type: ignore[arg-type]  # names and values of the settings


def scenario(count: int) -> Scenario:
    return Scenario(run="bench", seed=1, count=count, channels=CHANNELS, conversations=CONVERSATIONS)


def contacts(of: Scenario) -> dict[bytes, Contact]:
    return {contact_key(each.tenant_id, each.user_id).encode(): each for each in of.contacts(START)}


def messages(of: Scenario) -> Iterator[Output]:
    """Messages as an application produces them."""
    for planned in of.messages():
        message = Message(
            message_id=planned.message_id,
            conversation_id=planned.conversation_id,
            sender="shop",
            recipients=planned.recipients,
            text=planned.text,
            requested_at=START,
        )
        yield Output("messages", key_of(message), codec.encode(message), 0)


def provider_id(delivery: Delivery) -> str:
    """A made-up provider id, as long as a real one; the same for the same delivery."""
    own = delivery.delivery_id
    match delivery.channel:
        case "whatsapp":
            return f"wamid.HBgLMTU1NTAwMDAwMDAVAgARGBI{own[:24].upper()}AA=="
        case "telegram":
            return f"{delivery.address}:{int(own[:7], 16)}"
        case "instagram":
            return f"aWdfZAG1faXRlbToxOklHTWVzc2FnZAUlEOjE3ODQxNDA1MzA5MjEzMTE1OjM0MDI4MjM2Njg0MTcxMDMwMTI0NDI1OTg2ODQ0NTozM{own}ZDZD"
    return own  # the internal channel has no provider


def receipts(call: Call, number: int, now: int) -> Iterator[tuple[int, Output]]:
    """The receipts of the `number`-th call, each with the number of turns after which it arrives."""
    delivery: Delivery = call.request.delivery
    message_id = provider_id(delivery)
    tracked = tracker.encode(delivery, call.request.number, *_TRACKER_KEYS) if delivery.channel == "whatsapp" else None
    for turns, status in enumerate(_RECEIPTS[delivery.channel], 1):
        if status is ReceiptStatus.READ and number % 2:
            return
        receipt = Receipt(
            event_id=f"{delivery.channel}:{delivery.account}:{message_id}:{status.lower()}",
            channel=delivery.channel,
            account=delivery.account,
            provider_message_id=message_id,
            status=status,
            provider_at=now + turns * _DELAY_MS,
            received_at=now + turns * _DELAY_MS + 90,
            inferred=delivery.channel in ("telegram", "instagram"),
            callback_data=tracked,
        )
        yield turns, Output("receipts", b"-", codec.encode(receipt), 0)
