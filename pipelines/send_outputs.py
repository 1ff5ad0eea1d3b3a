"""The records that stage send produces: status updates, bindings, preferences and dead letters.

In: a row of table `outstanding` and what happened to it. Out: an Output or a Refusal. Guaranteed: deterministic; an attempt has the same
event id however often it is reported, so a repetition changes nothing. No I/O.
"""

from pipelines.engine.stage import Output, Record, Refusal
from pipelines.send_state import State
from schemas import codec
from schemas.keys import key_of, person_key, provider_message_key
from schemas.outcomes import RetryLater
from schemas.records import Binding, Cause, Choice, Preference, Status, StatusUpdate
from tables.outstanding import Outstanding


def attempt_update(
    row: Outstanding,
    status: Status,
    cause: Cause,
    now: int,
    why: tuple[str, str] | None = None,
    *,
    provider_message_id: str | None = None,
    throttled: bool = False,
    retry_at: int | None = None,
) -> Output:
    """The status update about an attempt, for track. Times are in Unix milliseconds, `why` is a reason code and a sentence. `retry_at` is
    when the next attempt may start; it is left out if the delivery is over by then."""
    delivery = row.delivery
    if retry_at is not None and delivery.expires_at is not None and delivery.expires_at <= retry_at:
        retry_at = None
    update = StatusUpdate(
        tenant_id=delivery.tenant_id,
        event_id=f"{delivery.delivery_id}:{row.attempt}:{cause.lower()}",
        delivery_id=delivery.delivery_id,
        conversation_id=delivery.conversation_id,
        home_partition=delivery.home_partition,
        status=status,
        cause=cause,
        occurred_at=now,
        observed_at=now,
        dispatched_at=row.dispatched_at,
        attempt=row.attempt,
        provider_message_id=provider_message_id,
        reason_code=why[0] if why else None,
        reason=why[1] if why else None,
        ready_at=row.ready_at,
        throttled=throttled,
        retry_at=retry_at,
    )
    return Output("status-updates", key_of(delivery), codec.encode(update), delivery.home_partition, content=update)


def bindings_of(row: Outstanding, provider_id: str, now: int, *, partial: bool) -> tuple[Output, Output]:
    """The binding of a provider's message id to the delivery, `partial` when it is not the last part. It is produced twice: under the key
    of its receipts, and under that of the person, where a reply arrives (docs/decisions/0031-a-binding-is-produced-twice.md)."""
    delivery = row.delivery
    channel, account = delivery.channel, delivery.account
    binding = Binding(
        tenant_id=delivery.tenant_id,
        channel=channel,
        account=account,
        provider_message_id=provider_id,
        delivery_id=delivery.delivery_id,
        conversation_id=delivery.conversation_id,
        home_partition=delivery.home_partition,
        bound_at=now,
        partial=partial,
        address=delivery.address,
        message_id=delivery.message_id,
    )
    value = codec.encode(binding)
    return (
        Output("bindings", provider_message_key(channel, account, provider_id).encode(), value, None),
        Output("bindings", person_key(channel, account, delivery.address).encode(), value, None),
    )


def preference_of(row: Outstanding, tenant_id: str, reason: str, now: int) -> Output:
    """What a refusal says about the person: nothing reaches them, for this reason. `tenant_id` is that of what people write to the
    account."""
    delivery = row.delivery
    preference = Preference(
        tenant_id=tenant_id,
        event_id=f"{delivery.delivery_id}:{row.attempt}:{reason}",
        channel=delivery.channel,
        account=delivery.account,
        address=delivery.address,
        choice=Choice.STOP,
        reason=reason,
        occurred_at=now,
        observed_at=now,
    )
    key = person_key(delivery.channel, delivery.account, delivery.address).encode()
    return Output("inbound", key, codec.encode(preference), None)


def given_up(row: Outstanding, outcome: RetryLater) -> Refusal:
    """The dead letter of a delivery whose attempts are exhausted."""
    topic, offset, timestamp = row.source
    delivery = row.delivery
    record = Record(topic, delivery.home_partition, offset, timestamp, key_of(delivery), codec.encode(delivery), ())
    detail = f"given up after attempt {row.attempt}: {outcome.reason} ({outcome.code})"
    return Refusal(record, "attempts_exhausted", detail, delivery.tenant_id)


def schedule_full(tenant: str, state: State) -> str:
    """The detail of a refusal because too many scheduled deliveries wait."""
    whose = (
        f"{state.scheduled.rows(tenant)} deliveries of this tenant"
        if state.scheduled.is_share_full(tenant)
        else "too many deliveries of all tenants"
    )
    return (
        f"{whose} wait in this partition for a later time, or have too many bytes: produce it again nearer to its time, "
        "or raise CHAT4ALL_SEND_SCHEDULED or CHAT4ALL_SEND_SCHEDULED_BYTES"
    )
