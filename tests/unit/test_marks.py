"""The metadata of a committed offset, there and back; and what a partition concludes from it when it is taken over."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine import marks
from pipelines.engine.brake import BRAKED_START, CAUSE, Alone, Brake, blank
from pipelines.engine.marks import Mark
from pipelines.engine.transactions import Turn
from tests.builders import raw

NAMES = st.from_regex(r"[a-zA-Z0-9._-]{1,60}", fullmatch=True)
MARKS = st.builds(
    Mark,
    ids=st.dictionaries(NAMES, NAMES, max_size=9),
    turn=NAMES,
    starts=st.integers(0, 99),
    trying=st.none() | st.tuples(NAMES, st.integers(0, 2**63 - 1)),
    writer=NAMES | st.just(""),
)
RECORDS = 10


@given(MARKS)
def test_a_mark_comes_back_as_it_was(mark: Mark) -> None:
    assert marks.read(mark.text()) == mark
    assert len(mark.text()) < 4096, "Kafka's limit of an offset's metadata"


@given(st.text() | st.none())
def test_anything_else_is_no_mark_and_no_error(text: str | None) -> None:
    found = marks.read(text)
    assert isinstance(found, Mark)
    if (text or "").split()[:1] != [marks.FIRST]:
        assert found == Mark()


def taken_over(*found: Mark) -> tuple[Brake, Alone]:
    alone = Alone()
    brake = Brake(2, alone)
    brake.take_over(found, RECORDS)
    return brake, alone


def test_a_start_counts_only_when_nothing_was_done_since() -> None:
    assert taken_over()[0].starts == 1
    assert taken_over(Mark(turn="a.1", starts=1), Mark(turn="a.1", starts=1))[0].starts == 2
    brake, alone = taken_over(Mark(turn="a.1", starts=2), Mark(turn="a.2"))
    assert (brake.starts, brake.on, alone.braked) == (1, False, set())
    brake, alone = taken_over(Mark(turn="a.1", starts=BRAKED_START - 1))
    assert (brake.starts, brake.on, alone.braked) == (BRAKED_START, True, {2})


def test_the_record_that_was_being_tried_is_blamed_and_refused_once() -> None:
    brake, alone = taken_over(Mark(turn="a.7", starts=3, trying=("in", 41)))
    guilty, other = raw("in", b"boom", partition=2, offset=41), raw("in", b"fine", partition=2, offset=40)
    assert [brake.is_blamed(each) for each in (other, guilty)] == [False, True]
    refusal = brake.refusal(guilty, "toy", "out of memory")
    assert (refusal.record, refusal.cause) == (guilty, CAUSE)
    assert "out of memory" in refusal.detail
    assert not brake.is_blamed(guilty)
    assert blank(guilty)[:3] == guilty[:3]
    assert (blank(guilty).key, blank(guilty).value) == (None, None)
    assert alone.braked == {2}


def test_the_brake_is_released_after_so_many_records_or_when_nothing_is_there() -> None:
    brake, alone = taken_over(Mark(turn="a.1", starts=2))
    for _ in range(RECORDS - 1):
        brake.done(1)
    assert (brake.on, alone.braked) == (True, {2})
    brake.done(1)
    assert (brake.on, alone.braked) == (False, set())
    brake, alone = taken_over(Mark(turn="a.1", starts=2))
    brake.release()
    assert (brake.on, alone.braked) == (False, set())


def test_a_turn_carries_what_the_next_owner_must_know_until_one_is_done_with() -> None:
    brake, _ = taken_over(Mark(turn="a.1", starts=1))
    turn = brake.marked(Turn(offsets={("in", 2): 5}))
    assert (turn.starts, turn.trying, brake.is_marked) == (2, None, True)
    brake.trying = ("in", 5)
    assert brake.marked(Turn()).trying == ("in", 5)
    brake.done(1)
    turn = brake.marked(Turn())
    assert (turn.starts, turn.trying, brake.is_marked) == (0, None, False)
