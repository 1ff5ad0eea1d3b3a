"""The memory of a delivery in track: the resident bytes of a process with very many deliveries, minus those without any.

Deliveries arrive turn by turn, through track's own decisions. The provider has accepted an open delivery; an ended one is delivered, and
every second one is read. Ids are as producers and providers make them: UUIDs for messages and conversations.
"""

import gc
import uuid
from typing import Any

import psutil

from benchmarks.decide import life
from benchmarks.decide.desks import Desk
from pipelines.engine.stage import Record
from pipelines.stages import BUILDERS
from schemas import codec, ids
from schemas.keys import key_of
from schemas.records import CHANNELS, Cause, Delivery, DeliveryRef, SequencedMessage, Status, StatusUpdate

A_TURN = 500
MS_BETWEEN = 17  # 60 a second
# deliveries in a table that is dropped: imports and allocations of the first turns do not belong to a row
WARM_UP = 20_000


def measure(count: int, kind: str) -> dict[str, Any]:
    """Resident bytes and changelog bytes a delivery, over `count` deliveries; `kind` is open or ended."""
    _fill(WARM_UP, kind)
    gc.collect()
    before = psutil.Process().memory_info().rss
    desk = _fill(count, kind)
    gc.collect()
    resident = psutil.Process().memory_info().rss - before
    held = len(desk.tables["timelines"])
    if held != count:
        raise SystemExit(f"wrong work, not measured: track holds {held} of {count} deliveries")
    return {"deliveries": count, "bytes": resident / count, "changelog": desk.changelog_bytes / count}


def _fill(count: int, kind: str) -> Desk:
    desk = Desk(BUILDERS["track"](life.settings()))
    for first in range(0, count, A_TURN):
        fresh = [_delivery(number) for number in range(first, min(count, first + A_TURN))]
        now = fresh[-1].accepted_at + 50
        desk.turn([_logged(each) for each in fresh], [], now)
        desk.turn([_update(each, Status.SENT, 400, attempt=1) for each in fresh], [], now + 400)
        if kind == "ended":
            desk.turn([_update(each, Status.DELIVERED, 1900) for each in fresh], [], now + 2000)
            desk.turn([_update(each, Status.READ, 95_000) for each in fresh[::2]], [], now + 95_000)
    return desk


def _delivery(number: int) -> Delivery:
    conversation = number * 0x9E3779B1 % life.CONVERSATIONS
    channel = CHANNELS[number % len(CHANNELS)]
    return Delivery(
        delivery_id=ids.digest((str(number),), 16).hex(),
        message_id=_uuid(f"m{number}"),
        conversation_id=_uuid(f"c{conversation}"),
        home_partition=0,
        seq=number // life.CONVERSATIONS + 1,
        channel=channel,
        account="106540352242922",
        recipient=f"customer-{conversation}",
        address=f"1555{conversation:07d}",
        kind="text",
        text="",
        requested_at=life.START + number * MS_BETWEEN,
        accepted_at=life.START + number * MS_BETWEEN + 20,
    )


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def _logged(delivery: Delivery) -> Record:
    ref = DeliveryRef(
        delivery_id=delivery.delivery_id,
        channel=delivery.channel,
        account=delivery.account,
        recipient=delivery.recipient,
        address=delivery.address,
    )
    shared = ("message_id", "conversation_id", "home_partition", "seq", "kind", "text", "requested_at", "accepted_at")
    sequenced = SequencedMessage(sender="shop", deliveries=(ref,), **{name: getattr(delivery, name) for name in shared})
    return Record("conversation-log", 0, 0, 0, key_of(delivery), codec.encode(sequenced), ())


def _update(delivery: Delivery, status: Status, after_ms: int, attempt: int = 0) -> Record:
    """A status update: with an attempt the result of our own call, else a receipt."""
    at, its = delivery.accepted_at + after_ms, life.provider_id(delivery)
    update = StatusUpdate(
        event_id=f"{delivery.delivery_id}:1:accepted"
        if attempt
        else f"{delivery.channel}:{delivery.account}:{its}:{status}",
        delivery_id=delivery.delivery_id,
        conversation_id=delivery.conversation_id,
        home_partition=0,
        status=status,
        cause=Cause.ACCEPTED if attempt else Cause.RECEIPT,
        occurred_at=at,
        observed_at=at + 80,
        dispatched_at=at - 300 if attempt else None,
        attempt=attempt,
        provider_message_id=its,
    )
    return Record("status-updates", 0, 0, 0, key_of(delivery), codec.encode(update), ())
