"""Input with which one tenant may disturb another: each kind of record that once ended or delayed a stage.

Enters: a name for the run. Leaves: for each kind its records, as (topic, key, value). The keys decide the partitions.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping

from schemas import codec
from schemas.content import Content, Media, Template
from schemas.keys import conversation_key, provider_message_key
from schemas.records import (
    Cause,
    Conversation,
    Delivery,
    Message,
    Receipt,
    ReceiptStatus,
    Recipient,
    Status,
    StatusUpdate,
)

TENANT = "loud"
Produced = tuple[str, bytes, bytes | None]
DAY_MS = 86_400_000


def kinds(run: str) -> Mapping[str, Iterator[Produced]]:
    """Kind of disturbance -> its records."""
    return {
        "9,000 copies of an unknown receipt, and 6,600 others": _receipts(run),
        "4,300 updates of an unknown delivery": _updates(run),
        "fields of hundreds of kilobytes": _large_fields(run),
        "97,000 members; 2,400 people and a link of 480 kB": _large_groups(run),
        "keys of megabytes and values that are no records": _rubbish(),
        "24,000 deliveries for the far future": _scheduled(run),
        "times in microseconds, and a schedule of years": _wrong_times(run),
    }


def burst(run: str) -> Iterator[Produced]:
    """Valid messages, but many: 1,000 to one person, and one to a group of 4,000."""
    for number in range(1000):
        yield _sent(_message(run, "one", message_id=f"{run}-one-{number}"))
    people = tuple(Recipient(channel="whatsapp", address=f"2{i:010}") for i in range(4000))
    yield _sent(_message(run, "group", recipients=people))


def _message(run: str, name: str, **changes: object) -> Message:
    plain = Message(
        tenant_id=TENANT,
        message_id=f"{run}-{name}",
        conversation_id=f"{run}-{name}",
        recipients=(Recipient(channel="whatsapp", address="12025559999"),),
        text=f"[{run}-{name}/{run}-{name}] loud",
        requested_at=_now(),
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]  # fields of a message


def _sent(message: Message) -> Produced:
    return "messages", conversation_key(message.tenant_id, message.conversation_id).encode(), codec.encode(message)


def _receipts(run: str) -> Iterator[Produced]:
    for number in range(15_600):
        event = "same" if number < 9000 else f"event-{number}"
        unknown = Receipt(
            event_id=f"{run}-{event}",
            channel="telegram",
            account="1",
            provider_message_id=f"{run}-unknown",
            status=ReceiptStatus.READ,
            provider_at=_now(),
            received_at=_now(),
        )
        key = provider_message_key("telegram", "1", unknown.provider_message_id)
        yield "receipts", key.encode(), codec.encode(unknown)


def _updates(run: str) -> Iterator[Produced]:
    for number in range(4300):
        early = StatusUpdate(
            tenant_id=TENANT,
            event_id=f"{run}-{number}",
            delivery_id=f"{run}-unknown",
            conversation_id=run,
            home_partition=0,
            status=Status.READ,
            cause=Cause.RECEIPT,
            occurred_at=_now(),
            observed_at=_now(),
        )
        yield "status-updates", run.encode(), codec.encode(early)


def _large_fields(run: str) -> Iterator[Produced]:
    link = Content(media=(Media("image", url="https://shop.example/" + "\x01" * 200_000),))
    template = Content(template=Template("t", "en", body=("\x01" * 300_000,)))
    yield _sent(_message(run, "link", kind="image", content=link, text=""))
    yield _sent(_message(run, "template", kind="template", content=template, text=""))
    yield _sent(_message(run, "address", recipients=(Recipient(channel="whatsapp", address="1" * 150_000),)))
    yield _sent(_message(run, "tenant", tenant_id="\x01" * 900_000))
    titled = Receipt(
        event_id=f"{run}-title",
        channel="whatsapp",
        account="1",
        provider_message_id=f"{run}-title",
        status=ReceiptStatus.FAILED,
        provider_at=_now(),
        received_at=_now(),
        error_title="t" * 800_000,
    )
    yield "receipts", b"whatsapp:1:title", codec.encode(titled)
    straight = Delivery(
        tenant_id=TENANT,
        delivery_id=f"{run}-straight",
        message_id="m",
        conversation_id=run,
        home_partition=0,
        seq=1,
        channel="whatsapp",
        account="1",
        recipient="r",
        address="1" * 150_000,
        kind="text",
        text="t",
        requested_at=_now(),
        accepted_at=_now(),
    )
    yield "deliveries.whatsapp", run.encode(), codec.encode(straight)


def _large_groups(run: str) -> Iterator[Produced]:
    crowd = Conversation(
        tenant_id=TENANT, conversation_id=f"{run}-crowd", members=tuple(f"u{i}" for i in range(97_000)), updated_at=1
    )
    yield "conversations", conversation_key(TENANT, crowd.conversation_id).encode(), codec.encode(crowd)
    people = tuple(Recipient(channel="whatsapp", address=f"1{i:010}") for i in range(2400))
    link = Content(media=(Media("image", url="https://shop.example/" + "a" * 480_000),))
    yield _sent(_message(run, "crowd", recipients=people, kind="image", content=link, text=""))


def _rubbish() -> Iterator[Produced]:
    yield "messages", b"k" * 1_900_000, b"not a record"
    yield "messages", b"\xff\xfe\x00", b"\x00" * 1_900_000
    yield "conversations", b"\xff" * 1000, None
    for number in range(2000):
        yield "messages", b"rubbish-%d" % number, b"\x00\x00\x00\x03\xe9" + b"\xff" * (number % 50)


def _scheduled(run: str) -> Iterator[Produced]:
    for group in range(6):
        people = tuple(Recipient(channel="whatsapp", address=f"1{group}{i:09}") for i in range(4000))
        yield _sent(_message(run, f"later-{group}", recipients=people, not_before=_now() + 30 * DAY_MS))


def _wrong_times(run: str) -> Iterator[Produced]:
    yield _sent(_message(run, "micro", not_before=_now() * 1000))
    yield _sent(_message(run, "years", not_before=_now() + 3000 * DAY_MS))
    yield _sent(_message(run, "seconds", expires_at=_now() // 1000))


def _now() -> int:
    return time.time_ns() // 1_000_000
