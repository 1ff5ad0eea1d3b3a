"""The memory of the last turns: which records caused a changelog row."""

from pipelines.engine import recent_turns
from pipelines.engine.recent_turns import RecentTurns, Taken
from pipelines.engine.transactional_producer import Rows

LOG = "core-changelog"


def rows(*numbers: int, topic: str = LOG) -> list[Rows]:
    return [Rows(topic, 2, [(b"k", b"v")] * number) for number in numbers]


def test_a_row_belongs_to_the_turn_that_wrote_it() -> None:
    recent = RecentTurns()
    recent.note(rows(2, 1), {LOG: 13}, {("in", 2): 5, ("other", 2): 9}, {("in", 2): 7, ("other", 2): 9})
    recent.note(rows(1), {LOG: 16}, {("in", 2): 7}, {("in", 2): 7})  # a marker of the transaction is at 13 and 14
    assert recent.taken(LOG, 9) is None
    assert [recent.taken(LOG, offset) for offset in (10, 11, 12)] == [[Taken("in", 2, 5, 6)]] * 3
    assert [recent.taken(LOG, offset) for offset in (13, 14)] == [None, None]
    assert recent.taken(LOG, 15) == []
    assert recent.taken(LOG, 16) is None
    assert recent.taken("else", 11) is None


def test_a_turn_without_rows_is_not_remembered_and_old_turns_are_forgotten() -> None:
    recent = RecentTurns()
    recent.note([], {}, {}, {("in", 2): 7})
    assert recent.taken(LOG, 0) is None
    for end in range(1, recent_turns.KEPT_TURNS + 2):
        recent.note(rows(1), {LOG: end}, {("in", 2): end}, {("in", 2): end + 1})
    assert recent.taken(LOG, 0) is None
    assert recent.taken(LOG, 1) == [Taken("in", 2, 2, 2)]


def test_tables_with_changelogs_of_their_own_are_kept_apart() -> None:
    recent = RecentTurns()
    recent.note([*rows(1, topic="a"), *rows(2, topic="b")], {"a": 5, "b": 105}, {("in", 2): 0}, {("in", 2): 1})
    assert recent.taken("a", 4) == recent.taken("b", 103) == recent.taken("b", 104) == [Taken("in", 2, 0, 0)]
    assert recent.taken("a", 3) is recent.taken("b", 102) is None


def test_a_source_without_a_committed_offset_before_is_left_out() -> None:
    """Its first record is not known then."""
    recent = RecentTurns()
    recent.note(rows(1), {LOG: 1}, {}, {("in", 2): 3})
    assert recent.taken(LOG, 0) == []
