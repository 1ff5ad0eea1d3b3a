"""Which records caused the newest changelog rows of a partition: a short memory of its last turns.

Enters: what each committed turn wrote to its changelogs, and how far it moved the offsets of its sources. Leaves: for a changelog offset,
the records that its turn took. Costs one small tuple per turn, whatever the number of its rows; nothing is added to a row. A restart
forgets it.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipelines.engine.transactional_producer import Rows

KEPT_TURNS = 512
TopicPart = tuple[str, int]


class Taken(NamedTuple):
    """Records of one source partition that a turn took: the first and the last offset."""

    topic: str
    partition: int
    first: int
    last: int


class _CommittedTurn(NamedTuple):
    numbers: list[tuple[str, int]]  # changelog and number of rows; a changelog may come several times
    ends: Mapping[str, int]  # changelog -> offset after its last row
    moved: list[tuple[TopicPart, int | None, int]]  # source, its committed offset before and after


class RecentTurns:
    """The newest KEPT_TURNS turns of one partition. Does not block; for the worker's event loop."""

    def __init__(self) -> None:
        self._turns: deque[_CommittedTurn] = deque(maxlen=KEPT_TURNS)

    def note(
        self,
        rows: Sequence[Rows],
        ends: Mapping[str, int],
        before: Mapping[TopicPart, int],
        offsets: Mapping[TopicPart, int],
    ) -> None:
        """Notes a committed turn: its rows, the ends of its changelogs, and the sources' offsets before and after it. It is called for each
        turn, so it only collects; `taken` does the rest."""
        if ends:
            numbers = [(each.topic, len(each.changes)) for each in rows]
            moved = [(source, before.get(source), after) for source, after in offsets.items()]
            self._turns.append(_CommittedTurn(numbers, ends, moved))

    def taken(self, changelog: str, offset: int) -> Sequence[Taken] | None:
        """The records taken by the turn that wrote this changelog row; empty if it took none (a call ended, or a time came). None if the
        turn is not remembered."""
        for turn in reversed(self._turns):
            end = turn.ends.get(changelog)
            if end is None or offset >= end:
                continue
            # all tables of a partition may share one changelog; a turn's rows in it follow one another
            if end - sum(number for topic, number in turn.numbers if topic == changelog) <= offset:
                return [
                    Taken(*source, was, now - 1) for source, was, now in turn.moved if was is not None and now > was
                ]
        return None
