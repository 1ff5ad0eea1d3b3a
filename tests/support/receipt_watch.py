"""Watches every record on `delivery-states` and `cursors`, and holds the tables of stage track against them: nothing goes backwards.

In: the outputs of committed turns, in the order of their partition. Out: an AssertionError at the first record that goes back.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.engine.stage import Output
from schemas import codec
from schemas.records import Cursor, DeliveryState, Status
from tables.messages import ORDER

RANK = {Status.PENDING: 0, Status.SENT: 1, Status.DELIVERED: 2, Status.READ: 3}
FAILURES = (Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.SUPPRESSED)
ARRIVED = (Status.DELIVERED, Status.READ)
TIMES = ("sent_at", "delivered_at", "read_at", "failed_at", "ready_at", "first_dispatched_at")


class Watch:
    """The newest state of every delivery, and the newest cursor of every member, as their topics have them."""

    def __init__(self) -> None:
        self.states: dict[str, DeliveryState] = {}
        self.cursors: dict[tuple[str, str, str], Cursor] = {}
        self.records = 0
        # (tenant, conversation, sequence) -> how many of its deliveries have which status
        self.counts = defaultdict[tuple[str, str, int], Counter[Status]](Counter)

    def see(self, outputs: Iterable[Output], partition: int) -> None:
        for output in outputs:
            if output.topic == "delivery-states":
                assert output.partition == partition
                self._see_state(codec.decode(output.value, DeliveryState))
            elif output.topic == "cursors":
                assert output.partition == partition
                self._see_cursor(codec.decode(output.value, Cursor))

    def _see_state(self, state: DeliveryState) -> None:
        self.records += 1
        before = self.states.get(state.delivery_id)
        counts = self.counts[state.tenant_id, state.conversation_id, state.seq]
        if before is None:
            assert (state.version, state.status, state.previous_status) == (1, Status.PENDING, Status.PENDING), state
        else:
            assert (state.version, state.previous_status) == (before.version + 1, before.status), state
            check_forward(before, state)
            counts[before.status] -= 1
        counts[state.status] += 1
        check_alone(state)
        self.states[state.delivery_id] = state

    def _see_cursor(self, cursor: Cursor) -> None:
        self.records += 1
        key = (cursor.tenant_id, cursor.conversation_id, cursor.member)
        before = self.cursors.get(key)
        read, newest = cursor.last_read_seq or 0, cursor.newest_seq
        delivered = newest if cursor.last_delivered_seq is None else cursor.last_delivered_seq
        assert 0 <= read <= delivered <= newest, cursor
        if before is None:
            assert cursor.version == 1, cursor
        else:
            assert cursor.version == before.version + 1, cursor
            assert newest >= before.newest_seq, cursor
            for name in ("last_delivered_seq", "last_read_seq"):
                earlier, later = getattr(before, name), getattr(cursor, name)
                assert earlier is None or (later is not None and later >= earlier), f"{before} {cursor}"
        self.cursors[key] = cursor

    def check_tables(self, rows: Mapping[str, Mapping[bytes, Any]], partition: int) -> None:
        """Holds `message_states`, `stalled`, `awaiting` and `cursors` of a partition against what the topics say."""
        for row in rows["cursors"].values():
            published = self.cursors.get((row.tenant_id, row.conversation_id, row.member))
            now = (row.last_delivered_seq, row.last_read_seq)
            if published is None:
                assert not any(now), row
            else:
                assert (published.last_delivered_seq, published.last_read_seq) == now, f"{published} {row}"
        states = [state for state in self.states.values() if state.home_partition == partition]
        by_key = {(row.tenant_id, row.conversation_id, row.seq): row for row in rows["message_states"].values()}
        here = {(s.tenant_id, s.conversation_id, s.seq) for s in states}
        several = {key for key in here if self.counts[key].total() > 1}
        assert set(by_key) == several
        for key, row in by_key.items():
            assert {s: n for s, n in zip(ORDER, row.counts, strict=True) if n} == +self.counts[key], key
        labelled = {state.delivery_id.encode() for state in states if state.stalled_at is not None}
        assert set(rows["stalled"]) == labelled
        for delivery_id in (*rows["stalled"], *rows["awaiting"]):
            assert self.states[delivery_id.decode()].status is Status.SENT
        assert not set(rows["stalled"]) & set(rows["awaiting"])


def check_alone(state: DeliveryState) -> None:
    """What every record must keep by itself."""
    times = (state.sent_at, state.delivered_at, state.read_at)
    known = [at for at in times if at is not None]
    if state.status in ARRIVED:
        assert None not in times[:2], state
        assert known == sorted(known), state
        assert state.failed_at is None, state
    assert (state.read_at is not None) == (state.status is Status.READ), state
    assert state.stalled_at is None or state.status is Status.SENT, state
    ways = (state.accepted_at, state.ready_at, state.first_dispatched_at, state.dispatched_at)
    passed = [at for at in ways if at is not None]
    assert passed == sorted(passed), state
    assert (state.first_dispatched_at is None) == (state.dispatched_at is None), state


def check_forward(before: DeliveryState, after: DeliveryState) -> None:
    """From one record of a delivery to the next."""
    if before.status in FAILURES:
        if after.status in FAILURES:
            assert FAILURES.index(after.status) <= FAILURES.index(before.status), after
        else:
            assert after.status in ARRIVED, f"only proof that it arrived undoes a failure: {after}"
            assert after.anomaly, after
    elif after.status in FAILURES:
        assert before.status not in ARRIVED, f"a failure undoes no arrival: {after}"
    else:
        assert RANK[after.status] >= RANK[before.status], f"backwards: {before.status} {after}"
    for name in TIMES:
        earlier, later = getattr(before, name), getattr(after, name)
        gone = name == "failed_at" and after.status in ARRIVED
        assert earlier is None or gone or (later is not None and later <= earlier), f"{name} later: {before} {after}"
    assert (after.attempts, after.resends) >= (before.attempts, before.resends), after
    assert after.throttles - before.throttles == after.throttled, after
    for name in (
        "message_id",
        "seq",
        "channel",
        "account",
        "recipient",
        "address",
        "kind",
        "requested_at",
        "accepted_at",
        "not_before",
        "fallback_of",
    ):
        assert getattr(after, name) == getattr(before, name)
