"""The metadata of a committed offset, written and read; and what a partition concludes from it when it is taken over."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine import offset_metadata
from pipelines.engine.crash_loop import CAUSE, CRASH_LOOP_STARTS, CrashLoopGuard, OneAtATime, blank
from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.transactions import TurnContents
from tests.support.builders import raw

NAMES = st.from_regex(r"[a-zA-Z0-9._-]{1,60}", fullmatch=True)
MARKS = st.builds(
    OffsetMetadata,
    ids=st.dictionaries(NAMES, NAMES, max_size=9),
    turn=NAMES,
    starts=st.integers(0, 99),
    trying=st.none() | st.tuples(NAMES, st.integers(0, 2**63 - 1)),
    writer=NAMES | st.just(""),
)
RECORDS = 10


@given(MARKS)
def test_metadata_is_read_as_it_was_written(mark: OffsetMetadata) -> None:
    assert offset_metadata.read(mark.text()) == mark
    assert len(mark.text()) < 4096, "Kafka's limit of an offset's metadata"


@given(st.text() | st.none())
def test_any_other_text_is_no_metadata_and_no_error(text: str | None) -> None:
    found = offset_metadata.read(text)
    assert isinstance(found, OffsetMetadata)
    if (text or "").split()[:1] != [offset_metadata.FIRST]:
        assert found == OffsetMetadata()


def taken_over(*found: OffsetMetadata) -> tuple[CrashLoopGuard, OneAtATime]:
    one_at_a_time = OneAtATime()
    crash_loop = CrashLoopGuard(2, one_at_a_time)
    crash_loop.take_over(found, RECORDS)
    return crash_loop, one_at_a_time


def test_a_start_counts_only_when_no_turn_was_completed_since() -> None:
    assert taken_over()[0].starts == 1
    assert taken_over(OffsetMetadata(turn="a.1", starts=1), OffsetMetadata(turn="a.1", starts=1))[0].starts == 2
    crash_loop, one_at_a_time = taken_over(OffsetMetadata(turn="a.1", starts=2), OffsetMetadata(turn="a.2"))
    assert (crash_loop.starts, crash_loop.on, one_at_a_time.in_crash_loop) == (1, False, set())
    crash_loop, one_at_a_time = taken_over(OffsetMetadata(turn="a.1", starts=CRASH_LOOP_STARTS - 1))
    assert (crash_loop.starts, crash_loop.on, one_at_a_time.in_crash_loop) == (CRASH_LOOP_STARTS, True, {2})


def test_the_record_that_was_being_tried_is_blamed_and_refused_once() -> None:
    crash_loop, one_at_a_time = taken_over(OffsetMetadata(turn="a.7", starts=3, trying=("in", 41)))
    guilty, other = raw("in", b"boom", partition=2, offset=41), raw("in", b"fine", partition=2, offset=40)
    assert [crash_loop.is_blamed(each) for each in (other, guilty)] == [False, True]
    refusal = crash_loop.refusal(guilty, "toy", "out of memory")
    assert (refusal.record, refusal.cause) == (guilty, CAUSE)
    assert "out of memory" in refusal.detail
    assert not crash_loop.is_blamed(guilty)
    assert blank(guilty)[:3] == guilty[:3]
    assert (blank(guilty).key, blank(guilty).value) == (None, None)
    assert one_at_a_time.in_crash_loop == {2}


def test_the_guard_is_released_after_so_many_records_or_when_nothing_is_left() -> None:
    crash_loop, one_at_a_time = taken_over(OffsetMetadata(turn="a.1", starts=2))
    for _ in range(RECORDS - 1):
        crash_loop.done(1)
    assert (crash_loop.on, one_at_a_time.in_crash_loop) == (True, {2})
    crash_loop.done(1)
    assert (crash_loop.on, one_at_a_time.in_crash_loop) == (False, set())
    crash_loop, one_at_a_time = taken_over(OffsetMetadata(turn="a.1", starts=2))
    crash_loop.release()
    assert (crash_loop.on, one_at_a_time.in_crash_loop) == (False, set())


def test_a_turn_carries_what_the_next_owner_must_know_until_one_is_complete() -> None:
    crash_loop, _ = taken_over(OffsetMetadata(turn="a.1", starts=1))
    turn = crash_loop.recorded(TurnContents(offsets={("in", 2): 5}))
    assert (turn.starts, turn.trying, crash_loop.is_recorded) == (2, None, True)
    crash_loop.trying = ("in", 5)
    assert crash_loop.recorded(TurnContents()).trying == ("in", 5)
    crash_loop.done(1)
    turn = crash_loop.recorded(TurnContents())
    assert (turn.starts, turn.trying, crash_loop.is_recorded) == (0, None, False)
