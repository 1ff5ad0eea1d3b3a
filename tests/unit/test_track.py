"""Stage track: the same updates, in any order, with repetitions and in any turns, end in the same timeline; no status goes backwards."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import Record
from pipelines.track import Track
from pipelines.track_state import State
from schemas.records import Cause, DeliveryState, Status, StatusUpdate
from tables import timelines
from tables.timeline_layout import PACKED, TIMELINES
from tables.timelines import Timeline
from tests.support.builders import (
    HERE,
    NOW,
    OBSERVED,
    Desk,
    decoded,
    examples,
    numbered,
    raw,
    record,
    ref,
    refused,
    sequenced,
    update,
)

STATE_MS = 8 * 86_400_000
PENDING, SENT, DELIVERED, READ, FAILED = Status.PENDING, Status.SENT, Status.DELIVERED, Status.READ, Status.FAILED
LOG = record("conversation-log", sequenced(ref()))


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(Track(state_ms=STATE_MS, observed=OBSERVED))


def of(*updates: StatusUpdate) -> list[Record]:
    return numbered([record("status-updates", each) for each in updates])


def seen(status: Status, at: int = 100, **changes: Any) -> StatusUpdate:
    """An update that says the status was reached `at` milliseconds after NOW."""
    fields = {"status": status, "occurred_at": NOW + at, "observed_at": NOW + at + 50}
    return update(f"{status}:{at}:{changes.get('cause', '')}", **(fields | changes))


def states(desk: Desk[State], kafka_records: Sequence[Record]) -> list[DeliveryState]:
    return decoded(desk.turn(kafka_records).outputs, "delivery-states", DeliveryState)


def path(published: Sequence[DeliveryState]) -> list[tuple[Status, Status]]:
    return [(each.previous_status, each.status) for each in published]


# --- the log ------------------------------------------------------------------------------------------------------------


def test_a_delivery_begins_with_the_log(desk: Desk[State]) -> None:
    (published,) = states(desk, [LOG])
    assert (published.version, published.previous_status, published.status, published.cause) == (
        1,
        PENDING,
        PENDING,
        Cause.CREATED,
    )
    assert (
        published.message_id,
        published.seq,
        published.channel,
        published.account,
        published.recipient,
        published.address,
    ) == (
        "msg-1",
        1,
        "whatsapp",
        "acc-1",
        "ana",
        "15550001",
    )
    assert (published.requested_at, published.accepted_at, published.occurred_at, published.home_partition) == (
        NOW - 50,
        NOW,
        NOW,
        0,
    )


def test_every_delivery_of_a_message_begins_and_keeps_to_itself(desk: Desk[State]) -> None:
    log = record("conversation-log", sequenced(ref("a"), ref("b", address="2"), ref("c", channel="telegram")))
    assert [each.delivery_id for each in states(desk, [log])] == ["a", "b", "c"]
    (published,) = states(desk, of(seen(READ, delivery_id="b")))
    assert (published.delivery_id, published.status, published.version) == ("b", READ, 2)
    (other,) = states(desk, of(seen(SENT, delivery_id="a")))
    assert (other.status, other.version) == (SENT, 2)


def test_every_transition_says_what_kind_it_was(desk: Desk[State]) -> None:
    begun = states(desk, [record("conversation-log", sequenced(ref(), kind="typing", text=""))])
    assert [each.kind for each in begun + states(desk, of(seen(SENT)))] == ["typing", "typing"]


def test_an_inbound_message_begins_nothing(desk: Desk[State]) -> None:
    assert states(desk, [record("conversation-log", sequenced())]) == []
    assert not desk.changelog["timelines"]


def test_a_repeated_log_record_publishes_once(desk: Desk[State]) -> None:
    assert len(states(desk, [LOG, LOG._replace(offset=1)])) == 1
    assert states(desk, [LOG]) == []


def test_updates_before_the_log_wait_for_it(desk: Desk[State]) -> None:
    early = of(seen(DELIVERED, 300), seen(SENT, 200), seen(DELIVERED, 300))
    assert states(desk, early) == []
    assert len(desk.rows("timelines")[b"dlv-1"].early) == 2, "a repetition is not stored"
    desk.restart(Track(state_ms=STATE_MS, observed=OBSERVED))
    published = states(desk, [LOG])
    assert path(published) == [(PENDING, PENDING), (PENDING, DELIVERED), (DELIVERED, DELIVERED)]
    assert [each.version for each in published] == [1, 2, 3]
    assert (published[-1].sent_at, published[-1].delivered_at) == (NOW + 200, NOW + 300)
    assert desk.rows("timelines")[b"dlv-1"].early == ()


@pytest.mark.parametrize("order", ["after the log", "before the log", "among our own before the log"])
def test_an_update_of_another_tenant_moves_nothing_and_is_refused(order: str, desk: Desk[State]) -> None:
    """Even with the same event id as ours. The refusal has the record's offset and bytes, although it waited in a row."""
    theirs = seen(READ, 100, tenant_id="acme", conversation_id="theirs")
    ours = dataclasses.replace(seen(SENT, 100), event_id=theirs.event_id)
    foreign = record("status-updates", theirs, offset=7)
    batches = {
        "after the log": [[LOG], [foreign], of(ours)],
        "before the log": [[foreign], [LOG], of(ours)],
        "among our own before the log": [[foreign, foreign._replace(offset=8), *of(ours)], [LOG]],
    }[order]
    decisions = []
    for batch in batches:
        decisions.append(desk.turn(batch))
        desk.restart(Track(state_ms=STATE_MS, observed=OBSERVED))
    (refusal,) = [refusal for decision in decisions for refusal in decision.refusals]
    assert refusal.cause == "wrong_tenant"
    assert refusal.record == foreign
    published = [each for d in decisions for each in decoded(d.outputs, "delivery-states", DeliveryState)]
    assert [(each.tenant_id, each.conversation_id, each.status) for each in published] == [
        ("default", HERE, PENDING),
        ("default", HERE, SENT),
    ]
    plain = Desk(Track(state_ms=STATE_MS, observed=OBSERVED))
    plain.turn([LOG])
    plain.turn(of(ours))
    assert desk.changelog == plain.changelog


def test_what_cannot_be_read_is_refused_and_the_rest_is_taken(desk: Desk[State]) -> None:
    decision = desk.turn([raw("status-updates", b"junk"), LOG, record("conversation-log", update(), offset=1)])
    assert refused(decision) == ["not_avro", "unexpected_record"]
    assert len(decision.outputs) == 1


# --- how a status moves -------------------------------------------------------------------------------------------------


class Moved(NamedTuple):
    label: str
    updates: list[StatusUpdate]
    statuses: list[Status]  # after each
    anomalies: list[str | None]


MOVED = (
    Moved("step by step", [seen(SENT), seen(DELIVERED, 200), seen(READ, 300)], [SENT, DELIVERED, READ], [None] * 3),
    Moved("back to front", [seen(READ, 300), seen(DELIVERED, 200), seen(SENT)], [READ, READ, READ], [None] * 3),
    Moved("read without delivered", [seen(SENT), seen(READ, 300)], [SENT, READ], [None] * 2),
    Moved("failed after sent", [seen(SENT), seen(FAILED, 200)], [SENT, FAILED], [None] * 2),
    Moved("sent after failed", [seen(FAILED), seen(SENT, 200)], [FAILED, FAILED], [None] * 2),
    Moved("delivered after failed", [seen(FAILED), seen(DELIVERED, 200)], [FAILED, DELIVERED], [None, "DELIVERED after FAILED"]),
    Moved("read after failed", [seen(FAILED), seen(READ, 200)], [FAILED, READ], [None, "READ after FAILED"]),
    Moved("failed after delivered", [seen(DELIVERED), seen(FAILED, 200)], [DELIVERED, DELIVERED], [None, "FAILED after DELIVERED"]),
    Moved("expired after read", [seen(READ), seen(Status.EXPIRED, 200)], [READ, READ], [None, "EXPIRED after READ"]),
    Moved("explained", [seen(PENDING, cause=Cause.RETRY_LATER), seen(SENT, 200)], [PENDING, SENT], [None] * 2),
    Moved("two failures", [seen(Status.EXPIRED), seen(FAILED, 200)], [Status.EXPIRED, FAILED], [None] * 2),
    Moved("two failures, the other way", [seen(FAILED), seen(Status.EXPIRED, 200)], [FAILED, FAILED], [None] * 2),
)  # fmt: skip  # one case a line


@pytest.mark.parametrize("case", MOVED, ids=lambda case: case.label)
def test_a_status_moves(case: Moved, desk: Desk[State]) -> None:
    desk.turn([LOG])
    published = states(desk, of(*case.updates))
    assert [each.status for each in published] == case.statuses
    assert [each.previous_status for each in published] == [PENDING, *case.statuses[:-1]]
    assert [each.anomaly for each in published] == case.anomalies
    assert [each.version for each in published] == list(range(2, len(published) + 2))


def test_read_implies_delivered_and_says_so_until_it_is_seen(desk: Desk[State]) -> None:
    desk.turn([LOG])
    (published,) = states(desk, of(seen(READ, 300)))
    assert (published.sent_at, published.delivered_at, published.read_at) == (NOW + 300, NOW + 300, NOW + 300)
    assert published.delivered_implied
    (published,) = states(desk, of(seen(DELIVERED, 200)))
    assert (published.sent_at, published.delivered_at, published.read_at) == (NOW + 200, NOW + 200, NOW + 300)
    assert not published.delivered_implied


def test_a_failure_that_was_disproved_leaves_no_time(desk: Desk[State]) -> None:
    desk.turn([LOG])
    failed, delivered = states(desk, of(seen(FAILED, 200, reason_code="131026", reason="no"), seen(DELIVERED, 300)))
    assert (failed.failed_at, failed.reason_code, failed.reason) == (NOW + 200, "131026", "no")
    assert (delivered.failed_at, delivered.delivered_at) == (None, NOW + 300)


def test_attempts_and_resends_are_counted(desk: Desk[State]) -> None:
    desk.turn([LOG])
    published = states(
        desk,
        of(
            seen(PENDING, 10, cause=Cause.UNKNOWN, attempt=1, dispatched_at=NOW + 5),
            seen(PENDING, 10, cause=Cause.RESENT, attempt=1, dispatched_at=NOW + 5),
            seen(SENT, 90, cause=Cause.ACCEPTED, attempt=2, dispatched_at=NOW + 60, provider_message_id="w1"),
        ),
    )
    last = published[-1]
    assert (last.attempts, last.resends, last.dispatched_at, last.provider_message_id) == (2, 1, NOW + 60, "w1")


def test_a_repeated_update_changes_nothing_and_is_counted(desk: Desk[State]) -> None:
    desk.turn([LOG])
    desk.turn(of(seen(SENT)))
    before = dict(desk.changelog["timelines"])
    decision = desk.turn(of(seen(SENT)))
    assert (decision.outputs, decision.counts) == ([], {"repeated": 1})
    assert desk.changelog["timelines"] == before


# --- how long it is remembered ------------------------------------------------------------------------------------------


def test_a_delivery_is_forgotten_a_while_after_its_last_news(desk: Desk[State]) -> None:
    desk.turn([LOG])
    later = NOW + STATE_MS // 2
    desk.turn(of(seen(READ, later - NOW)), now=later)
    first = desk.due()
    assert first is not None
    assert first >= NOW + STATE_MS
    desk.turn(now=NOW + STATE_MS)
    assert desk.changelog["timelines"], "there was an update since"
    second = desk.due()
    assert second is not None
    assert second >= later + STATE_MS
    desk.turn(now=second)
    assert not desk.changelog["timelines"]
    assert desk.due() is None


# --- any order ----------------------------------------------------------------------------------------------------------

_RANK = {PENDING: 0, SENT: 1, DELIVERED: 2, READ: 3}
_UPDATES = st.builds(
    seen,
    st.sampled_from([PENDING, SENT, DELIVERED, READ, FAILED, Status.EXPIRED]),
    st.integers(0, 6).map(lambda n: n * 50),
    cause=st.sampled_from([Cause.RECEIPT, Cause.RESENT, Cause.UNKNOWN, Cause.RETRY_LATER]),
    attempt=st.integers(0, 3),
    dispatched_at=st.sampled_from([None, NOW + 10, NOW + 20]),
    provider_message_id=st.sampled_from([None, "w1", "w2"]),
    reason_code=st.sampled_from([None, "131026", "429"]),
    reason=st.sampled_from([None, "one", "another"]),
    ready_at=st.sampled_from([None, NOW - 5, NOW + 5, NOW + 15, NOW + 900]),
    throttled=st.booleans(),
    retry_at=st.sampled_from([None, NOW + 500, 253_402_300_799_999]),
    delivery_id=st.sampled_from(["dlv-1", "dlv-1", "dlv-2"]),
)


@st.composite
def _happenings(draw: st.DrawFn) -> tuple[list[StatusUpdate], list[list[StatusUpdate]]]:
    """Some updates, and two orders in which they may arrive, with repetitions."""
    distinct = draw(st.lists(_UPDATES, max_size=8, unique_by=lambda each: (each.delivery_id, each.event_id)))
    ways = []
    for _ in range(2):
        repeated = draw(st.lists(st.sampled_from(distinct), max_size=3)) if distinct else []
        ways.append(draw(st.permutations([*distinct, *repeated])))
    return distinct, ways


def in_turns(way: list[StatusUpdate], data: st.DataObject) -> tuple[Desk[State], list[DeliveryState]]:
    """The log at any position, turns of any size, and a restart between any two turns."""
    desk = Desk(Track(state_ms=STATE_MS, observed=OBSERVED))
    batch = of(*way)
    log = record("conversation-log", sequenced(ref(), ref("dlv-2", address="2")))
    batch.insert(data.draw(st.integers(0, len(batch)), label="place of the log"), log)
    published = []
    while batch:
        size = data.draw(st.integers(1, len(batch)), label="size of the turn")
        published += states(desk, batch[:size])
        if data.draw(st.booleans(), label="restart"):
            desk.restart(Track(state_ms=STATE_MS, observed=OBSERVED))
        batch = batch[size:]
    return desk, published


def known(row: Timeline) -> dict[str, Any]:
    """The content of a row, without the order of event ids."""
    return row._asdict() | {"events": sorted(row.events)}


@examples(150)
@given(happenings=_happenings(), data=st.data())
def test_any_order_any_repetition_and_any_turns_end_alike(
    happenings: tuple[list[StatusUpdate], list[list[StatusUpdate]]], data: st.DataObject
) -> None:
    distinct, ways = happenings
    (one, published), (other, _) = (in_turns(way, data) for way in ways)
    rows, others = one.rows("timelines"), other.rows("timelines")
    assert {key: known(row) for key, row in rows.items()} == {key: known(row) for key, row in others.items()}
    for key, row in rows.items():
        mine = [each for each in published if each.delivery_id.encode() == key]
        assert [each.version for each in mine] == list(range(1, len(mine) + 1))
        assert len(mine) == 1 + sum(each.delivery_id.encode() == key for each in distinct)
        assert row.version == len(mine)
        assert mine[-1].status is timelines.status(row)
        check_forward(mine)
        check_times(mine, [each for each in distinct if each.delivery_id.encode() == key])


def check_times(published: list[DeliveryState], said: list[StatusUpdate]) -> None:
    """Every transition has what its own update says; the last one what all of them say, whatever their order."""
    of = {each.event_id: each for each in said}
    for each in published[1:]:
        update = of[each.event_id]
        own = (update.attempt, update.status, update.throttled, update.retry_at)
        assert (each.attempt, each.reported, each.throttled, each.retry_at) == own
    calls = [max(NOW, each.dispatched_at) for each in said if each.dispatched_at is not None]
    first = min(calls, default=None)
    firsts = [max(NOW, each.ready_at) for each in said if each.ready_at is not None]
    ready = min([*firsts, *([] if first is None else [first])]) if firsts else None
    last = published[-1]
    assert (last.ready_at, last.first_dispatched_at, last.dispatched_at) == (ready, first, max(calls, default=None))
    assert last.throttles == sum(each.throttled for each in said)
    assert (published[0].attempt, published[0].reported, published[0].ready_at) == (0, "PENDING", None)


def check_forward(published: list[DeliveryState]) -> None:
    for before, after in itertools.pairwise(published):
        assert after.previous_status is before.status
        if before.status in _RANK and after.status in _RANK:
            assert _RANK[after.status] >= _RANK[before.status], "backwards"
        elif before.status not in _RANK and after.status in _RANK:
            assert after.status in (DELIVERED, READ), "only proof of delivery undoes a failure"
            assert after.anomaly
        elif before.status in (DELIVERED, READ):
            assert after.status in (DELIVERED, READ), "a failure undoes no delivery"
    for each in published:
        if each.status is READ:
            assert each.delivered_at is not None
            assert each.sent_at is not None
            assert each.sent_at <= each.delivered_at <= (each.read_at or 0)
        if each.cause is Cause.RECEIPT and each.anomaly:
            assert " after " in each.anomaly


def test_a_state_has_its_conversations_key(desk: Desk[State]) -> None:
    log = record("conversation-log", sequenced(ref(), tenant_id="acme"))
    (output,) = desk.turn([log]).outputs
    assert output.key == f"acme/{HERE}".encode()


def test_a_state_stays_in_the_partition_that_published_it(desk: Desk[State]) -> None:
    outputs = desk.turn([LOG, *of(seen(SENT, home_partition=3))]).outputs
    assert [(o.key, o.partition) for o in outputs] == [(HERE.encode(), 0)] * 2


def test_a_delivery_for_later_is_remembered_from_its_time_on(desk: Desk[State]) -> None:
    day = 86_400_000
    desk.turn([record("conversation-log", sequenced(ref(), not_before=NOW + 30 * day))])
    desk.turn(now=NOW + 30 * day + STATE_MS - 1)
    assert b"dlv-1" in desk.rows("timelines")
    desk.turn(now=NOW + 30 * day + STATE_MS + 60_000)
    assert desk.rows("timelines") == {}


# --- where the time went ------------------------------------------------------------------------------------------------


def test_a_state_says_where_the_time_went(desk: Desk[State]) -> None:
    """A scheduled delivery that was throttled once: when it was for, first in its lane, first called, and called at last."""
    log = sequenced(ref(fallback_of="dlv-0"), not_before=NOW + 1000)
    desk.turn([record("conversation-log", log)])
    first = {"attempt": 1, "ready_at": NOW + 1020, "dispatched_at": NOW + 1100}
    said = of(
        seen(PENDING, 1200, cause=Cause.RETRY_LATER, throttled=True, retry_at=NOW + 8200, **first),
        seen(SENT, 8300, cause=Cause.ACCEPTED, **(first | {"attempt": 2, "dispatched_at": NOW + 8210})),
    )
    throttled, sent = states(desk, [*said, *said])
    assert (throttled.attempt, throttled.throttled, throttled.retry_at) == (1, True, NOW + 8200)
    assert (sent.attempt, sent.throttled, sent.retry_at, sent.throttles) == (2, False, None, 1)
    for each in (throttled, sent):
        assert (each.not_before, each.ready_at, each.first_dispatched_at) == (NOW + 1000, NOW + 1020, NOW + 1100)
        assert each.fallback_of == "dlv-0"
    assert sent.dispatched_at == NOW + 8210
    assert (throttled.reported, sent.reported) == ("PENDING", "SENT")


@pytest.mark.parametrize("not_before", [None, 0, -(2**63), NOW - 1, NOW])
def test_a_time_that_was_over_at_the_acceptance_is_no_schedule(not_before: int | None, desk: Desk[State]) -> None:
    (created,) = states(desk, [record("conversation-log", sequenced(ref(), not_before=not_before))])
    assert created.not_before is None
    assert TIMELINES.encode(desk.rows("timelines")[b"dlv-1"])[0] == PACKED


@pytest.mark.parametrize("order", [1, -1])
def test_clocks_that_differ_put_nothing_before_the_acceptance_and_no_call_before_the_turn(
    order: int, desk: Desk[State]
) -> None:
    """The clock of one worker is behind that of route; that of another goes back between two attempts."""
    desk.turn([LOG])
    said = [
        seen(PENDING, 10, cause=Cause.RETRY_LATER, attempt=1, ready_at=NOW - 700, dispatched_at=NOW - 500),
        seen(PENDING, 20, cause=Cause.UNKNOWN, attempt=2, ready_at=NOW - 700, dispatched_at=NOW - 900),
    ]
    last = states(desk, of(*said[::order]))[-1]
    assert (last.ready_at, last.first_dispatched_at, last.dispatched_at) == (NOW, NOW, NOW)
    last = states(desk, of(seen(SENT, 30, attempt=3, ready_at=NOW + 40, dispatched_at=NOW + 25)))[-1]
    assert (last.ready_at, last.first_dispatched_at, last.dispatched_at) == (NOW, NOW, NOW + 25)


def test_who_was_first_after_the_call_was_first_at_the_call(desk: Desk[State]) -> None:
    desk.turn([LOG])
    (said,) = states(desk, of(seen(SENT, 30, attempt=1, ready_at=NOW + 40, dispatched_at=NOW + 25)))
    assert (said.ready_at, said.first_dispatched_at) == (NOW + 25, NOW + 25)


def test_a_receipt_says_which_attempt_it_is_about_and_what_it_reported_in_vain(desk: Desk[State]) -> None:
    desk.turn([LOG])
    read, sent = states(desk, of(seen(READ, 300, attempt=2), seen(SENT, 200, attempt=1)))
    assert [(each.attempt, each.reported, each.status) for each in (read, sent)] == [
        (2, "READ", READ),
        (1, "SENT", READ),
    ]
