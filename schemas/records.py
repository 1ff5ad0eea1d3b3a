"""The records in Kafka, as frozen dataclasses: one class per Avro record, with the same fields in the same order.

Times are Unix time in milliseconds, durations have their unit in the name, ids are opaque text. The `doc` of each field in
avro/<record>.v<n>.avsc gives its meaning; a test compares the classes with the schemas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.content import Content

CHANNELS = ("whatsapp", "telegram", "instagram", "internal")
MEDIA_KINDS = ("image", "document", "audio", "video", "sticker")
# The provider keeps nothing of a signal, so its deliveries have no provider message id.
SIGNALS = ("typing", "mark_read")
KINDS = ("text", "template", *MEDIA_KINDS, "album", "location", "reaction", *SIGNALS)


class Direction(StrEnum):
    OUTBOUND = "OUTBOUND"
    INBOUND = "INBOUND"


class ReceiptStatus(StrEnum):
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    READ = "READ"
    FAILED = "FAILED"


class Status(StrEnum):
    PENDING = "PENDING"
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    READ = "READ"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    SUPPRESSED = "SUPPRESSED"


class Cause(StrEnum):
    ACCEPTED = "ACCEPTED"
    RETRY_LATER = "RETRY_LATER"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"
    RESENT = "RESENT"
    EXPIRED = "EXPIRED"
    EXHAUSTED = "EXHAUSTED"
    RECEIPT = "RECEIPT"
    CREATED = "CREATED"
    STALLED = "STALLED"


class Choice(StrEnum):
    STOP = "STOP"
    RESUME = "RESUME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    user_id: str | None = None
    channel: str | None = None
    address: str | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    tenant_id: str = "default"
    message_id: str
    conversation_id: str
    direction: Direction = Direction.OUTBOUND
    sender: str = ""
    recipients: tuple[Recipient, ...] = ()
    kind: str = "text"
    text: str = ""
    not_before: int | None = None
    expires_at: int | None = None
    requested_at: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    content: Content | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRef:
    delivery_id: str
    channel: str
    account: str
    recipient: str
    address: str
    fallback_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencedMessage:
    tenant_id: str = "default"
    message_id: str
    conversation_id: str
    home_partition: int
    seq: int
    direction: Direction = Direction.OUTBOUND
    sender: str
    kind: str
    text: str
    requested_at: int
    accepted_at: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    deliveries: tuple[DeliveryRef, ...] = ()
    content: Content | None = None
    not_before: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    tenant_id: str = "default"
    delivery_id: str
    message_id: str
    conversation_id: str
    home_partition: int
    seq: int
    channel: str
    account: str
    recipient: str
    address: str
    kind: str
    text: str
    not_before: int | None = None
    expires_at: int | None = None
    requested_at: int
    accepted_at: int
    content: Content | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    tenant_id: str = "default"
    channel: str
    account: str
    provider_message_id: str
    delivery_id: str
    conversation_id: str
    home_partition: int
    bound_at: int
    partial: bool = False
    address: str | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    tenant_id: str = "default"
    event_id: str
    channel: str
    account: str
    provider_message_id: str
    status: ReceiptStatus
    provider_at: int
    received_at: int
    inferred: bool = False
    callback_data: str | None = None
    error_code: str | None = None
    error_title: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusUpdate:
    tenant_id: str = "default"
    event_id: str
    delivery_id: str
    conversation_id: str
    home_partition: int
    status: Status
    cause: Cause
    occurred_at: int
    observed_at: int
    dispatched_at: int | None = None
    attempt: int = 0
    provider_message_id: str | None = None
    inferred: bool = False
    reason_code: str | None = None
    reason: str | None = None
    ready_at: int | None = None
    throttled: bool = False
    retry_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryState:
    tenant_id: str = "default"
    event_id: str
    delivery_id: str
    message_id: str
    conversation_id: str
    home_partition: int
    seq: int
    channel: str
    account: str
    recipient: str
    address: str
    version: int
    previous_status: Status
    status: Status
    cause: Cause
    anomaly: str | None = None
    occurred_at: int
    observed_at: int
    requested_at: int
    accepted_at: int
    dispatched_at: int | None = None
    sent_at: int | None = None
    delivered_at: int | None = None
    read_at: int | None = None
    failed_at: int | None = None
    delivered_implied: bool = False
    attempts: int = 0
    resends: int = 0
    provider_message_id: str | None = None
    reason_code: str | None = None
    reason: str | None = None
    kind: str = "text"
    stalled_at: int | None = None
    attempt: int = 0
    reported: str = ""
    throttled: bool = False
    retry_at: int | None = None
    throttles: int = 0
    not_before: int | None = None
    ready_at: int | None = None
    first_dispatched_at: int | None = None
    fallback_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    key: str
    value: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    tenant_id: str = "default"
    dead_letter_id: str
    stage: str
    cause: str
    detail: str
    source_topic: str
    source_partition: int
    source_offset: int
    source_timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[Header, ...] = ()
    refused_at: int
    key_length: int | None = None
    key_sha256: str | None = None
    value_length: int | None = None
    value_sha256: str | None = None
    headers_cut: int = 0
    headers_left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    tenant_id: str = "default"
    conversation_id: str
    members: tuple[str, ...]
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    channel: str
    address: str
    account: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    tenant_id: str = "default"
    user_id: str
    addresses: tuple[Address, ...]
    opt_outs: tuple[str, ...] = ()
    time_zone: str | None = None
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    tenant_id: str = "default"
    conversation_id: str
    home_partition: int
    member: str
    version: int
    last_delivered_seq: int | None = None
    last_read_seq: int | None = None
    newest_seq: int
    changed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorReport:
    tenant_id: str = "default"
    event_id: str
    conversation_id: str
    home_partition: int
    channel: str
    account: str
    address: str
    delivered_up_to: int | None = None
    read_up_to: int | None = None
    occurred_at: int
    observed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundMessage:
    tenant_id: str = "default"
    channel: str
    account: str
    address: str
    provider_message_id: str
    kind: str
    text: str = ""
    content: Content | None = None
    provider_at: int
    received_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    tenant_id: str = "default"
    event_id: str
    channel: str
    account: str
    address: str
    choice: Choice
    reason: str
    occurred_at: int
    observed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    tenant_id: str = "default"
    channel: str
    account: str
    address: str
    suppressed: bool
    reason: str
    confirmation_id: str | None = None
    changed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    tenant_id: str = "default"
    conversation_id: str
    home_partition: int
    channel: str
    account: str
    address: str
    opened_at: int
    closes_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    tenant_id: str = "default"
    erasure_id: str
    conversation_id: str
    home_partition: int
    person: str
    addresses: tuple[Address, ...]
    delivery_ids: tuple[str, ...] = ()
    provider_message_ids: tuple[str, ...] = ()
    keep_opt_outs: bool = False
    requested_at: int


Record = (
    Message
    | SequencedMessage
    | Delivery
    | Binding
    | Receipt
    | StatusUpdate
    | DeliveryState
    | DeadLetter
    | Conversation
    | Contact
    | Cursor
    | CursorReport
    | InboundMessage
    | Preference
    | Suppression
    | Window
    | Erasure
)
