"""Cursors against a reference that keeps every delivery: any order, number and loss of what is reported ends in the same cursor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables import cursors
from tables.cursors import MOST_RUNS, MemberCursor
from tests.support.builders import examples
from tests.support.cursor_reference import CHANNELS, DELIVERED, FAILED, READ, SENT, Reference

EMPTY = MemberCursor("default", "c-1", "ana")
REPORTS = st.lists(st.tuples(st.integers(0, 29), st.sampled_from((SENT, DELIVERED, READ, FAILED))), max_size=120)


@examples(400)
@given(
    channels=st.lists(st.sampled_from(sorted(CHANNELS)), min_size=1, max_size=30),
    gaps=st.lists(st.integers(1, 4), min_size=30, max_size=30),
    reports=REPORTS,
)
def test_cursors_are_what_a_look_at_every_delivery_says(
    channels: list[str], gaps: list[int], reports: list[tuple[int, str]]
) -> None:
    seqs = [sum(gaps[: n + 1]) for n in range(len(channels))]
    reference, cursor = Reference(channels, seqs), EMPTY
    before = (0, 0)
    for n, what in [*reports, *((n, SENT) for n in range(len(channels)))]:
        if n >= reference.made:  # made when it is first heard of, or in order with one that is
            for channel, seq in list(zip(channels, seqs, strict=True))[reference.made : n + 1]:
                sees_delivered, sees_read = CHANNELS[channel]
                cursor = cursors.made(cursor, seq, sees_delivered=sees_delivered, sees_read=sees_read)
                reference.made += 1
        if n >= len(channels):
            continue
        cursor = reported(cursor, reference, n, what)
        now = (cursor.last_delivered_seq, cursor.last_read_seq)
        assert now == (reference.delivered(), reference.read())
        shown = (now[0] or 0, now[1] or 0)
        assert all(new >= old for new, old in zip(shown, before, strict=True)), "a cursor went back"
        assert 0 <= shown[1] <= (shown[0] if now[0] is not None else cursor.made_seq)
        assert shown[0] <= cursor.made_seq
        before = shown


def reported(cursor: MemberCursor, reference: Reference, n: int, what: str) -> MemberCursor:
    """As stage track uses the functions: READ implies DELIVERED, positive evidence comes after a failure too."""
    reference.known[n].add(what)
    if reference.is_ended(n):
        is_failed = not reference.known[n] & {DELIVERED, READ} and FAILED in reference.known[n]
        observed = reference.is_observed(n)
        cursor = cursors.ended(cursor, n + 1, reference.seqs[n], observed=observed, failed=is_failed)
    return cursors.read(cursor, n + 1, reference.seqs[n]) if what == READ else cursor


def test_many_gaps_keep_the_row_bounded_and_the_cursor_late_but_never_ahead() -> None:
    cursor, count = EMPTY, 4 * MOST_RUNS
    for seq in range(1, count + 1):
        cursor = cursors.made(cursor, seq, sees_delivered=True, sees_read=True)
    for number in range(2, count + 1, 2):
        cursor = cursors.ended(cursor, number, number, observed=True)
    assert len(cursor.runs) == MOST_RUNS
    for number in range(1, count + 1, 2):
        cursor = cursors.ended(cursor, number, number, observed=True)
    assert cursor.last_delivered_seq == 2 * MOST_RUNS + 1, "the first end that was forgotten holds it up"
    for number in range(2, count + 1, 2):  # their own rows expire
        cursor = cursors.ended(cursor, number, number, observed=False)
    assert (cursor.ended, cursor.runs) == (count, ())


@pytest.mark.parametrize("member", ["ana/b", "ana%2Fb", "a b", "ana"])
def test_a_key_names_one_member(member: str) -> None:
    others = {("default", "c/1", "ana"), ("default", "c", "1/ana"), ("t", "c", "ana"), ("default", "t/c", "ana")}
    keys = {cursors.cursor_key(*each) for each in others} | {cursors.cursor_key("default", "c", member)}
    assert len(keys) == len(others) + 1


def test_unread_counts_what_may_still_be_read() -> None:
    cursor = EMPTY
    for seq in (1, 2, 5, 6):
        cursor = cursors.made(cursor, seq, sees_delivered=True, sees_read=True)
    assert cursor.unread == 4
    cursor = cursors.ended(cursor, 3, 5, observed=True, failed=True)
    assert cursor.unread == 3
    cursor = cursors.read(cursors.ended(cursor, 2, 2, observed=True), 2, 2)
    assert cursor.unread == 1
    cursor = cursors.ended(cursor, 3, 5, observed=True)  # it arrived after all
    assert cursor.unread == 2
    assert cursors.made(EMPTY, 1, sees_delivered=False, sees_read=False).unread is None
