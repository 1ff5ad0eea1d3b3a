"""What the stages of core forget of a person: the records of topic `erasures`, applied to the tables.

In: an Erasure, from `chat4all erase` alone, and the rows of one partition. Out: changed rows, ends of deliveries that were not sent yet,
tombstones of cursors and suppressions. Guaranteed: rows of other people, of other tenants and of later messages stay; a status goes on
without the person; the same record again changes nothing; one record looks at a bounded number of rows, and so does a turn. No I/O.

Every row is found by its key: the record names the deliveries and the providers' ids. docs/erasure.md lists what cannot be found so.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.engine.poison import TooLarge
from pipelines.engine.stage import Decision, Output, Record, Refusal
from pipelines.send_outputs import attempt_update
from schemas import codec
from schemas.keys import DEFAULT_TENANT, key_of, provider_message_key, suppression_key
from schemas.records import CHANNELS, Address, Cause, Conversation, Delivery, Erasure, Status, StatusUpdate
from sinks.erased_ids import erased_id
from sinks.erased_people import erased_name, person_digest
from tables.cursors import MemberCursor, cursor_key
from tables.member_addresses import address_key
from tables.outstanding import Phase
from tables.threads import ChannelPerson
from tables.timelines import Timeline, digest_of

if TYPE_CHECKING:  # these modules import this one
    from pipelines.match import State as MatchState
    from pipelines.route import State as RouteState
    from pipelines.send_state import State as SendState
    from pipelines.track_state import State as TrackState

TOPIC = "erasures"
MOST_LOOKS = 20_000  # row look-ups of one turn's erasures; a single record may make up to 80,000
# Providers whose message ids hold the person's address: as digits (Telegram), in base64 (WhatsApp).
IDS_WITH_ADDRESS = frozenset({"whatsapp", "telegram"})
_ERASED = "erased:"


def erasure_in(record: Record, decision: Decision) -> Erasure | None:
    """The erasure in a record; None if it was refused because it names another partition. Raises a CodecError, and TooLarge when the turn
    has looked at enough rows: the engine then decides on fewer records."""
    erasure = codec.decode(record.value, Erasure)
    if erasure.home_partition != record.partition:
        detail = f"the erasure names partition {erasure.home_partition}: produce it there, as `chat4all erase` does"
        decision.refusals.append(Refusal(record, "wrong_partition", detail, erasure.tenant_id))
        return None
    looks = len(erasure.delivery_ids) + 5 * len(erasure.addresses) * (1 + len(erasure.provider_message_ids))
    before = decision.counts.get("erasure_looks", 0)
    if before and before + looks > MOST_LOOKS:
        raise TooLarge(f"{before + looks} rows of erasures: a turn looks at {MOST_LOOKS}", together=True)
    decision.count("erasure_looks", looks)
    return erasure


def is_erased(address: str) -> bool:
    """Whether a row's address is the word that replaced one."""
    return address.startswith(_ERASED)


def name_of(erasure: Erasure, channel: str, recipient: str, address: str) -> str:
    """The word that replaces a recipient and their address. Archive's merge uses the same one (sinks/erased_people.py)."""
    if erasure.person and recipient == erasure.person:
        return erased_name(person_digest(erasure.tenant_id, "", recipient))
    return erased_name(person_digest(erasure.tenant_id, channel, address))


def _members(erasure: Erasure) -> Iterator[tuple[str, str]]:
    """The names under which the person is a member of a conversation, each with the word that replaces it."""
    if erasure.person:
        yield erasure.person, erased_name(person_digest(erasure.tenant_id, "", erasure.person))
    for each in sorted(erasure.addresses, key=_rank):
        if each.address != erasure.person:
            yield each.address, erased_name(person_digest(erasure.tenant_id, each.channel, each.address))


def _rank(address: Address) -> int:
    return CHANNELS.index(address.channel) if address.channel in CHANNELS else len(CHANNELS)


# --- route ------------------------------------------------------------------------------------------------------------------


def from_route(erasure: Erasure, state: "RouteState", decision: Decision) -> None:
    """The person is no member of the conversation any more, in the table and on the topic."""
    if not erasure.conversation_id or not erasure.person:
        return
    key = key_of(erasure)
    row = state.conversations.get(key)
    if row is None or erasure.person not in row.user_ids:
        return
    others = tuple(each for each in row.user_ids if each != erasure.person)
    updated_at = max(erasure.requested_at, row.updated_at)
    state.conversations.put(key, dataclasses.replace(row, user_ids=others, updated_at=updated_at))
    made = Conversation(
        tenant_id=erasure.tenant_id,
        conversation_id=erasure.conversation_id,
        members=others,
        updated_at=updated_at,
    )
    decision.outputs.append(Output("conversations", key, codec.encode(made), state.partition))
    decision.count("erased_members")


# --- match ------------------------------------------------------------------------------------------------------------------


def from_match(erasure: Erasure, state: "MatchState", decision: Decision) -> None:
    """Deletes what is known of the person by address: threads, what they may answer, what they wrote, receipts without a delivery, and
    suppressions, unless the record keeps these. A binding goes where the provider's id holds the address."""
    for each in erasure.addresses:
        if each.account is None:
            continue
        person = ChannelPerson(each.channel, each.account, each.address)
        erased = state.threads.forget(person, erasure)
        for provider_id in erasure.provider_message_ids:
            erased += _from_join(provider_message_key(each.channel, each.account, provider_id), each, erasure, state)
        if erased:
            decision.count("erased_rows", erased)
        key = suppression_key(erasure.tenant_id, *person).encode()
        if not erasure.keep_opt_outs and key in state.suppressed:
            state.suppressed.delete(key)
            decision.outputs.append(Output("suppressions", key, None, None))
            decision.count("erased_opt_out")


def _from_join(name: str, address: Address, erasure: Erasure, state: "MatchState") -> int:
    """Rows of one provider message; returns how many were deleted."""
    key, erased = name.encode(), 0
    bound = state.bindings.get(key) if address.channel in IDS_WITH_ADDRESS else None
    if bound is not None and bound.tenant_id == erasure.tenant_id:
        state.bindings.delete(key)
        erased += 1
    waiting = state.waiting.get(key)
    if waiting is not None and _is_of(waiting.receipts, erasure):
        state.waiting.delete(key)
        state.waits.cancel(name)
        erased += 1
    return erased + state.orphans.forget(key, lambda receipts: _is_of(receipts, erasure))


def _is_of(receipts: tuple[bytes, ...], erasure: Erasure) -> bool:
    """Whether receipts are of the erasure's tenant, or of the default one, as on an account that tenants share."""
    return all(codec.decode_any(each).tenant_id in {erasure.tenant_id, DEFAULT_TENANT} for each in receipts)


# --- send -------------------------------------------------------------------------------------------------------------------


def take_in_send(record: Record, state: "SendState", decision: Decision, now: int) -> None:
    """`from_send` for a record. Raises what `erasure_in` raises."""
    if (erasure := erasure_in(record, decision)) is not None:
        from_send(erasure, state, decision, now)


def from_send(erasure: Erasure, state: "SendState", decision: Decision, now: int) -> None:
    """Ends the person's deliveries that are not being sent, as CANCELLED. A call in flight cannot be taken back: its row loses text and
    address, its result counts, and it is never repeated, because its time is over. Windows are forgotten."""
    for delivery_id in erasure.delivery_ids:
        row = state.rows.get(delivery_id.encode())
        if row is None or row.delivery.tenant_id != erasure.tenant_id:
            continue
        if row.phase is not Phase.CALLING:
            why = ("erased", "the person was erased before it was sent")
            decision.outputs.append(attempt_update(row, Status.CANCELLED, Cause.REJECTED, now, why))
            decision.count("erased_cancelled")
            state.end(row, now)
        elif not is_erased(row.delivery.address):
            state.replace_called(row, _blank(row.delivery, erasure), now)
            decision.count("erased_in_flight")
    for each in erasure.addresses:
        if each.account is not None and state.windows.forget(
            erasure.tenant_id, each.channel, each.account, each.address
        ):
            decision.count("erased_rows")


def _blank(delivery: Delivery, erasure: Erasure) -> Delivery:
    name = name_of(erasure, delivery.channel, delivery.recipient, delivery.address)
    return dataclasses.replace(
        delivery, recipient=name, address=name, kind="text", text="", content=None, not_before=None, expires_at=1
    )


# --- track ------------------------------------------------------------------------------------------------------------------


def from_track(erasure: Erasure, state: "TrackState", decision: Decision, now: int) -> None:
    """Timelines, early updates and cursors of the person go on under the word that replaces them."""
    for delivery_id in erasure.delivery_ids:
        key = delivery_id.encode()
        row = state.rows.get(key)
        if row is not None and row.tenant_id == erasure.tenant_id and row != (erased := _without(row, erasure)):
            state.rows.put(key, erased)
            decision.count("erased_rows")
    if not erasure.conversation_id:
        return
    of = (erasure.tenant_id, erasure.conversation_id)
    for each in erasure.addresses:
        at = address_key(*of, each.channel, each.address)
        if at in state.member_addresses:
            state.member_addresses.delete(at)
            decision.count("erased_rows")
    for member, name in _members(erasure):
        _rename(cursor_key(*of, member).encode(), cursor_key(*of, name).encode(), name, state, decision, now)


def _without(row: Timeline, erasure: Erasure) -> Timeline:
    """The timeline without the person. Its events stay known by their digests, so a repeated receipt stays repeated."""
    early = tuple(masked_update(each) for each in row.early)
    if not row.known:
        return row._replace(early=early, provider_message_id=None, reason=None)
    if is_erased(row.address):
        return row
    name = name_of(erasure, row.channel, row.recipient, row.address)
    return row._replace(recipient=name, address=name, provider_message_id=None, reason=None, early=early)


def masked_update(update: StatusUpdate) -> StatusUpdate:
    """An update of an erased delivery: ids of receipts are made from the provider's ids, and a sentence may quote an address."""
    return dataclasses.replace(
        update,
        event_id=erased_id(update.tenant_id, update.delivery_id, update.event_id),
        provider_message_id=None,
        reason=None,
    )


def update_for(row: Timeline, update: StatusUpdate) -> StatusUpdate:
    """The update as a delivery's row may take it: masked if the person was erased. One that the row has applied before keeps its id."""
    if not is_erased(row.address) or digest_of(update.event_id) in row.events:
        return update
    return masked_update(update)


def _rename(  # noqa: PLR0917  # a key and a name before and after
    before: bytes, after: bytes, name: str, state: "TrackState", decision: Decision, now: int
) -> None:
    """The member's cursor continues under another name. If there is one already, from an earlier erasure, the later one ends: the numbers
    of its deliveries would not fit."""
    row = state.cursors.get(before)
    if row is None:
        return
    state.cursors.delete(before)
    decision.outputs.append(Output("cursors", before, None, state.partition))
    decision.count("erased_rows")
    if after in state.cursors:
        return
    renamed: MemberCursor = row._replace(member=name, version=row.version + 1, updated_at=now)
    state.cursors.put(after, renamed)
    decision.outputs.append(Output("cursors", after, codec.encode(renamed.published(state.partition)), state.partition))
