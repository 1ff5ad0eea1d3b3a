"""Tables: rows are read from the changelog as written, a turn can be rolled back, and a due key is returned once and never late."""

import dataclasses
import json
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.records import Delivery, Message, Status
from tables import seen
from tables.bindings import BINDINGS, WAITING, BoundDelivery, WaitingReceipt
from tables.conversations import CONVERSATIONS, Members
from tables.cursors import CURSORS, MemberCursor
from tables.fair_queue import Lane, place_of
from tables.held import HELD, HeldRecord
from tables.lanes import Lanes, lane_of
from tables.layout import JsonLayout, Layout
from tables.member_addresses import MEMBER_ADDRESSES, AddressOfMember
from tables.messages import MESSAGE_STATES, MESSAGES, LoggedMessage, MessageState, pending
from tables.orphans import ORPHANS, OrphanedReceipts
from tables.outstanding import OUTSTANDING, Outstanding, Phase
from tables.plans import PLANS, PlannedBatch
from tables.seen import SEEN, Seen
from tables.sequences import SEQUENCES, Sequence
from tables.stalled import AWAITING, STALLED, Awaited, StalledDelivery
from tables.stores.memory import MemoryTable
from tables.tenant_quota import TenantQuota
from tables.threads import (
    ANSWERABLE,
    HELD_INBOUND,
    RECEIVED,
    THREADS,
    Answerable,
    HeldInbound,
    KnownConversation,
    KnownThreads,
    ReceivedMessage,
)
from tables.timeline_layout import TIMELINES
from tables.timelines import FAILURES, KEPT_EVENTS, Timeline
from tables.timers import TenantTimers, Timers
from tables.windows import WINDOWS, ServiceWindow
from tests.support.builders import NOW, delivery, examples, inbound_message, message, receipt, to_address, update

# --- layouts ------------------------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_MS = st.integers(0, 2**52)
_MAYBE_MS = st.none() | _MS
_CONVERSATIONS = st.builds(KnownConversation, _TEXT, _TEXT, _MS, _MS)
_DELIVERIES = st.builds(
    delivery, _TEXT, seq=_MS, text=_TEXT, address=_TEXT, not_before=_MAYBE_MS, expires_at=_MAYBE_MS, account=_TEXT
)


@st.composite
def _timelines(draw: st.DrawFn) -> Timeline:
    """Rows that fit the packed form, rows that do not, and rows just at the limit; also rows with waiting updates."""
    accepted = draw(st.just(NOW) | _MS)
    time = st.integers(accepted - 2**31 - 1, accepted + 2**31) | st.integers(NOW, NOW + 9000) | _MS
    text = _TEXT | st.sampled_from(["a" * 255, "a" * 256, "é" * 128, "default", "whatsapp", "text"])
    number = st.integers(0, 300) | st.sampled_from([65_535, 65_536, 2**31 - 1])
    fields: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(Timeline._fields, text)
    fields |= dict.fromkeys(("requested_at", "updated_at", "reason_at"), time)
    fields |= dict.fromkeys(("dispatched_at", "sent_at", "delivered_at", "read_at", "failed_at"), st.none() | time)
    fields |= dict.fromkeys(("covered_delivered_at", "covered_read_at", "stalled_at"), st.none() | time)
    fields |= dict.fromkeys(("not_before", "ready_at", "first_dispatched_at"), st.none() | time)
    fields |= dict.fromkeys(("provider_message_id", "reason_code", "reason", "fallback_of"), st.none() | text)
    fields |= dict.fromkeys(("version", "attempts", "resends", "number", "throttles"), number)
    fields |= {
        "known": st.booleans(),
        "accepted_at": st.just(accepted),
        "seq": st.integers(0, 9) | st.sampled_from([2**32 - 1, 2**32, 2**53]),
        "failure": st.sampled_from([None, *(str(each) for each in FAILURES)]),
        "events": st.lists(st.integers(0, 2**64 - 1), max_size=3).map(tuple) | st.just((1,) * KEPT_EVENTS),
        "early": st.lists(st.builds(update, _TEXT, status=st.sampled_from(Status)), max_size=2).map(tuple),
        "places": st.lists(st.tuples(_MS, _MS), max_size=2).map(tuple),
    }
    row = Timeline(**draw(st.fixed_dictionaries(fields)))
    if draw(st.booleans()):
        row = row._replace(first_dispatched_at=row.dispatched_at)  # one attempt
    return row if draw(st.booleans()) else row._replace(early=(), places=())


class Kept(NamedTuple):
    layout: Layout[Any]
    rows: st.SearchStrategy[Any]


KEPT = (
    Kept(SEEN, st.builds(Seen, st.binary(min_size=8, max_size=8), _MS)),
    Kept(SEQUENCES, st.builds(Sequence, _MS)),
    Kept(CONVERSATIONS, st.builds(Members, _TEXT, st.lists(_TEXT, max_size=4).map(tuple), _MS)),
    Kept(BINDINGS, st.builds(BoundDelivery, _TEXT, _TEXT, _TEXT, st.integers(0, 99), _MS)),
    Kept(
        HELD,
        st.builds(
            HeldRecord,
            _TEXT,
            _TEXT,
            _MS,
            st.tuples(_TEXT, _MS, _MS),
            st.lists(st.sampled_from(["none", "text", "bytes"]), max_size=2).map(tuple),
            st.lists(st.binary() | st.just(codec.encode(message())), min_size=2, max_size=4).map(tuple),
        ),
    ),
    Kept(
        WAITING,
        st.builds(
            WaitingReceipt,
            _MS,
            st.lists(st.tuples(_MS, _MS, _TEXT), max_size=3).map(tuple),
            st.lists(st.builds(receipt, _TEXT, error_title=_TEXT).map(codec.encode) | st.binary(), max_size=3).map(
                tuple
            ),
        ),
    ),
    Kept(PLANS, st.builds(PlannedBatch, st.lists(st.tuples(_MS, _MS), max_size=3).map(tuple))),
    Kept(
        OUTSTANDING,
        st.builds(
            Outstanding,
            _DELIVERIES,
            st.tuples(_TEXT, _MS, _MS),
            st.sampled_from(Phase),
            attempt=st.integers(0, 9),
            not_before=_MS,
            dispatched_at=_MAYBE_MS,
            ready_at=_MAYBE_MS,
            evidence=st.none() | _TEXT,
        ),
    ),
    Kept(TIMELINES, _timelines()),
    Kept(
        CURSORS,
        st.tuples(st.tuples(_TEXT, _TEXT, _TEXT), st.lists(_MS, max_size=3)).map(
            lambda drawn: MemberCursor(*drawn[0], failed=tuple(drawn[1]))
        ),
    ),
    Kept(MEMBER_ADDRESSES, st.builds(AddressOfMember, _TEXT)),
    Kept(
        MESSAGES, st.builds(LoggedMessage, _TEXT, _TEXT, _TEXT, _MS, _TEXT, _TEXT, _MS, _MS, st.lists(_TEXT).map(tuple))
    ),
    Kept(MESSAGE_STATES, st.builds(MessageState, _TEXT, _TEXT, _TEXT, _MS, st.just(pending(3)), _MS)),
    Kept(AWAITING, st.builds(Awaited, _MS)),
    Kept(THREADS, st.builds(KnownThreads, st.lists(_CONVERSATIONS, max_size=3).map(tuple), _MS)),
    Kept(ANSWERABLE, st.builds(Answerable, _TEXT, _TEXT, _MS, st.none() | _TEXT, _MS)),
    Kept(RECEIVED, st.builds(ReceivedMessage, _TEXT, _TEXT, _MS, _TEXT, _MS)),
    Kept(HELD_INBOUND, st.builds(HeldInbound, _MS, _MS, _MS, st.builds(inbound_message, _TEXT, text=_TEXT))),
    Kept(
        ORPHANS,
        st.builds(
            OrphanedReceipts,
            _MS,
            st.lists(_TEXT, max_size=3).map(tuple),
            st.lists(st.tuples(_MS, _MS, _TEXT), max_size=3).map(tuple),
            st.lists(st.binary(), max_size=3).map(tuple),
        ),
    ),
    Kept(WINDOWS, st.builds(ServiceWindow, _TEXT, _MS, _MS)),
    Kept(STALLED, st.builds(StalledDelivery, _TEXT, _TEXT, _TEXT, _MS, _TEXT, _TEXT, st.none() | _MS, _MS)),
)


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.layout.name)
@examples(60)
@given(data=st.data())
def test_a_row_comes_back_from_the_changelog_as_it_was(kept: Kept, data: st.DataObject) -> None:
    row = data.draw(kept.rows)
    assert kept.layout.decode(kept.layout.encode(row)) == row
    json.dumps(kept.layout.as_json(row))


def test_a_row_of_another_version_still_reads() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Grown:
        name: str
        added: int = 7

    layout = JsonLayout("grown", Grown)
    assert layout.decode(b'{"name": "a"}') == Grown("a"), "written before the field was added"
    assert layout.decode(b'{"name": "a", "added": 1, "dropped": [1]}') == Grown("a", 1), "written by a newer release"


def test_timers_grow_with_the_keys_that_are_set_not_with_the_changes() -> None:
    timers = Timers()
    for i in range(10_000):
        timers.set("always moved", NOW + 10_000 - i)
        timers.set(f"cancelled {i}", NOW + 1_000_000 + i)
        timers.cancel(f"cancelled {i}")
        timers.set("never moved", NOW + 5)
    assert len(timers._heap) < 200
    assert timers.take_due(NOW + 2_000_000, 1) == ["always moved"]
    assert timers.take_due(NOW + 2_000_000) == ["never moved"]


def test_a_row_that_holds_a_record_can_be_read_with_missing_and_unknown_fields() -> None:
    row = Outstanding(delivery(text="\n\x01"), ("deliveries.whatsapp", 4, NOW))
    head, frame = OUTSTANDING.encode(row).split(b"\n", 1)
    fields = json.loads(head)
    assert fields["delivery"] == [len(frame)], "the record's size in its place"
    del fields["attempt"]
    other = json.dumps(fields | {"of_a_newer_release": [1]}).encode() + b"\n" + frame
    assert OUTSTANDING.decode(other) == row
    assert OUTSTANDING.as_json(row)["delivery"]["text"] == "\n\x01", "the web views show it"


# --- one partition of a table -------------------------------------------------------------------------------------------

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcd"), st.integers(0, 5)),
        st.tuples(st.just("delete"), st.sampled_from("abcd"), st.just(0)),
        st.tuples(st.sampled_from(["commit", "rollback"]), st.just(""), st.just(0)),
    ),
    max_size=40,
)


@examples(200)
@given(steps=_STEPS)
def test_a_turn_is_on_the_changelog_completely_or_not_at_all(steps: list[tuple[str, str, int]]) -> None:
    table: MemoryTable[Sequence] = MemoryTable(SEQUENCES)
    changelog: MemoryTable[Sequence] = MemoryTable(SEQUENCES)  # as another worker would restore it
    committed: dict[bytes, Sequence] = {}
    open_turn: dict[bytes, Sequence] = {}
    for step, name, seq in steps:
        key = name.encode()
        if step == "put":
            table.put(key, Sequence(seq))
            open_turn[key] = Sequence(seq)
        elif step == "delete":
            table.delete(key)
            open_turn.pop(key, None)
        elif step == "commit":
            changes = table.changes()
            assert len({key for key, _ in changes}) == len(changes), "one record per key"
            for changed, value in changes:
                assert value is not None or changed in committed, "a row that never existed needs no tombstone"
                changelog.load(changed, value)
            table.commit()
            committed = dict(open_turn)
        else:
            table.rollback()
            open_turn = dict(committed)
        assert dict(table.items()) == open_turn
        assert dict(changelog.items()) == committed
        assert len(table) == len(open_turn)
        assert all(key in table and table.get(key) == row for key, row in open_turn.items())
    table.rollback()
    assert table.changes() == []
    assert dict(table.items()) == committed


# --- what is due --------------------------------------------------------------------------------------------------------

_DUE_STEPS = st.lists(
    st.tuples(st.sampled_from(["set", "set", "cancel", "take"]), st.sampled_from("abcde"), st.integers(0, 20)),
    max_size=60,
)


TENANTS = st.sampled_from("xyz")


@examples(200)
@given(steps=_DUE_STEPS)
def test_timers_return_each_key_once_at_its_latest_time(steps: list[tuple[str, str, int]]) -> None:
    timers = Timers()
    model: dict[str, int] = {}
    for step, key, at in steps:
        if step == "set":
            timers.set(key, at)
            model[key] = at
        elif step == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        else:
            taken = timers.take_due(at)
            assert sorted(taken) == sorted(key for key, due in model.items() if due <= at)
            assert taken == sorted(taken, key=lambda key: model[key]), "the earliest first"
            for key_taken in taken:
                del model[key_taken]
        assert timers.next_due() == min(model.values(), default=None)
        assert len(timers) == len(model)


def test_timers_return_at_most_as_many_as_asked_and_the_lowest_rank_first() -> None:
    timers = Timers()
    for rank in (3, 1, 2):
        timers.set(f"{9 - rank}", 5, rank)
    assert timers.take_due(5, 2) == ["8", "7"]
    assert timers.take_due(5, 2) == ["6"]


def test_timers_do_not_keep_keys_cancelled_long_before_their_time() -> None:
    timers = Timers()
    for number in range(10_000):
        timers.set(str(number), 10**12)
        timers.cancel(str(number))
    assert len(timers._heap) < 1000


@examples(200)
@given(steps=_DUE_STEPS, tenant_of=st.fixed_dictionaries(dict.fromkeys("abcde", TENANTS)), at_most=st.integers(3, 9))
def test_tenant_timers_return_due_keys_of_every_tenant(
    steps: list[tuple[str, str, int]], tenant_of: dict[str, str], at_most: int
) -> None:
    timers, model = TenantTimers(), Timers()
    for step, key, at in steps:
        tenant = tenant_of[key]
        if step == "set":
            timers.set(tenant, key, at)
            model.set(key, at)
        elif step == "cancel":
            timers.cancel(tenant, key)
            model.cancel(key)
        else:
            taken = set(timers.take_due(at, at_most))
            due = set(model.take_due(at))
            assert taken <= due
            assert {tenant_of[key] for key in taken} == {tenant_of[key] for key in due}, "every tenant that is due"
            for key_left in due - taken:
                model.set(key_left, at)
                timers.set(tenant_of[key_left], key_left, at)
        assert timers.next_due() == model.next_due()


# --- quota --------------------------------------------------------------------------------------------------------------


@examples(200)
@given(
    steps=st.lists(st.tuples(st.booleans(), TENANTS, st.integers(0, 9)), max_size=40),
    rows=st.integers(0, 12),
    size=st.integers(0, 60),
)
def test_a_quota_knows_what_is_full(steps: list[tuple[bool, str, int]], rows: int, size: int) -> None:
    quota, held = TenantQuota(rows=rows, size=size), list[tuple[str, int]]()
    for is_added, tenant, length in steps:
        if is_added:
            held.append((tenant, length))
            quota.add(tenant, length)
        elif held:
            quota.remove(*held.pop())
        assert len(quota) == len(held)
        assert quota.is_full() == (len(held) >= rows or sum(each for _, each in held) >= size)
        lengths = {name: [each for other, each in held if other == name] for name in "xyz"}
        full = {name for name, of in lengths.items() if 2 * len(of) >= rows or 2 * sum(of) >= size}
        assert {name for name in "xyz" if quota.is_share_full(name)} == full
        assert quota.is_any_share_full() == any(name in full for name, of in lengths.items() if of)


# --- lanes --------------------------------------------------------------------------------------------------------------


def in_lane(name: str, seq: int) -> Delivery:
    return delivery(f"{name}{seq}", address=name, seq=seq)


def test_lanes_alternate_and_each_shows_its_head() -> None:
    lanes = Lanes()
    for seq in (1, 2, 3):
        for name in "ab":
            lanes.add(in_lane(name, seq), NOW)
    seen_heads = []
    while (lane := lanes.next_ready()) is not None:
        head = lanes.head(lane)
        assert head is not None
        seen_heads.append(head)
        lanes.remove(in_lane(head[0], int(head[1])), NOW)
    assert seen_heads == ["a1", "b1", "a2", "b2", "a3", "b3"]
    assert (len(lanes), lanes.any_ready()) == (0, False)


def test_a_lane_is_ready_once_and_only_for_its_head() -> None:
    lanes = Lanes()
    first = in_lane("a", 1)
    lanes.add(first, NOW)
    lanes.ready(lane_of(first))
    assert lanes.next_ready() == Lane("default", first.conversation_id, "a", "whatsapp")
    assert lanes.next_ready() is None
    lanes.add(in_lane("a", 2), NOW)
    assert not lanes.any_ready(), "deliveries behind the head have to wait"
    lanes.remove(first, NOW)
    assert lanes.any_ready()


@pytest.mark.parametrize("called", [True, False])
def test_a_late_delivery_is_inserted_by_sequence_but_never_before_a_head_that_was_called(called: bool) -> None:
    lanes = Lanes()
    lane = lane_of(in_lane("a", 1))
    lanes.add(in_lane("a", 5), NOW)
    if called:
        lanes.begin(lane)
    for seq in (7, 8, 6, 3, 4):
        lanes.add(in_lane("a", seq), NOW)
    order = []
    while (head := lanes.head(lane)) is not None:
        order.append(head)
        lanes.remove(in_lane("a", int(head[1:])), NOW)
    assert order == (["a5", "a3", "a4", "a6", "a7", "a8"] if called else ["a3", "a4", "a5", "a6", "a7", "a8"])


def test_a_delivery_that_ends_in_the_middle_of_its_lane_leaves_the_others_in_order() -> None:
    lanes = Lanes()
    for seq in (1, 2, 3):
        lanes.add(in_lane("a", seq), NOW)
    lane = lane_of(in_lane("a", 1))
    assert lanes.next_ready() == lane
    lanes.remove(in_lane("a", 2), NOW)
    assert lanes.head(lane) == "a1"
    assert not lanes.any_ready(), "its head is the same"
    lanes.remove(in_lane("a", 1), NOW)
    assert (lanes.next_ready(), lanes.head(lane)) == (lane, "a3")


ACCOUNTS = st.sampled_from(["1", "2"])
READY_STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "ready", "next", "block", "unblock"]), TENANTS, ACCOUNTS, TENANTS),
    max_size=80,
)


@examples(300)
@given(steps=READY_STEPS, busy=st.sets(TENANTS))
def test_a_lane_is_ready_when_its_head_may_be_called_and_tenants_alternate(
    steps: list[tuple[str, str, str, str]], busy: set[str]
) -> None:
    lanes = Lanes()
    lines: dict[Lane, list[Delivery]] = {}  # the deliveries of each lane
    ready: set[Lane] = set()
    blocked: set[str] = set()
    waits: Counter[str] = Counter()  # lanes of other tenants taken since a tenant had one that could be called
    for number, (step, tenant, account, address) in enumerate(steps):
        made = delivery(f"d{number}", seq=number, tenant_id=tenant, account=account, address=address)
        lane = lane_of(made)
        if step == "add":
            lanes.add(made, NOW)
            lines.setdefault(lane, []).append(made)
            ready |= {lane} if lines[lane] == [made] else set()
        elif step == "remove" and lane in lines:
            lanes.remove(lines[lane].pop(0), NOW)
            ready |= {lane}
            if not lines[lane]:
                del lines[lane]
                ready.discard(lane)
        elif step == "ready":
            lanes.ready(lane)
            ready |= {lane} & lines.keys()
        elif step == "block":
            lanes.block(place_of(made))
            blocked.add(place_of(made))
        elif step == "unblock":
            lanes.unblock(place_of(made))
            blocked.discard(place_of(made))
        else:
            may = {each for each in ready if each.tenant_id not in busy and place_of(lines[each][0]) not in blocked}
            assert lanes.any_ready(busy.__contains__) or not may
            taken = lanes.next_ready(busy.__contains__)
            assert (taken in may) if may else taken is None
            if taken is not None:
                ready.remove(taken)
                waits = Counter(
                    {each: waits[each] + 1 for each in {lane.tenant_id for lane in may} - {taken.tenant_id}}
                )
                assert max(waits.values(), default=0) < 3, "after every other tenant once"
            else:
                assert not lanes.any_ready(busy.__contains__)


DIFFERENT = {
    "tenant": {"tenant_id": "other"},
    "conversation": {"conversation_id": "other"},
    "address": {"address": "other"},
    "channel": {"channel": "telegram"},
}


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT)
def test_a_lane_is_one_conversation_with_one_address_on_one_channel(change: dict[str, str]) -> None:
    assert lane_of(delivery()) != lane_of(delivery(**change))
    assert lane_of(delivery()) == lane_of(delivery("other", seq=9, account="other", recipient="other"))


# --- seen ---------------------------------------------------------------------------------------------------------------

SAME = {
    "asked for at another time": message(requested_at=NOW),
    "other labels": message(metadata={"a": "b"}),
    "other times": message(not_before=NOW, expires_at=NOW),
}
OTHER = {
    "text": message(text="other"),
    "kind": message(kind="other"),
    "sender": message(sender="other"),
    "recipients": message(recipients=(to_address("15550001"), to_address("2"))),
    "a recipient's channel": message(recipients=(to_address("15550001", channel="telegram"),)),
}


@pytest.mark.parametrize("again", SAME.values(), ids=SAME)
def test_the_digest_is_the_same_with(again: Message) -> None:
    assert seen.digest(again) == seen.digest(message())


@pytest.mark.parametrize("other", OTHER.values(), ids=OTHER)
def test_the_digest_differs_with_another(other: Message) -> None:
    assert seen.digest(other) != seen.digest(message())


def test_a_message_is_known_by_tenant_conversation_and_id() -> None:
    assert seen.key(message("m/1", tenant_id="t", conversation_id="c 1")) == b"t/c%201/m%2F1"


def test_what_a_message_says_cannot_be_moved_from_one_field_to_the_next() -> None:
    """With a separator character, two messages had one digest, and the second was dropped as a repetition."""
    assert seen.digest(message(kind="a", text="b\x1fc")) != seen.digest(message(kind="a\x1fb", text="c"))
