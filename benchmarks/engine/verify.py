"""Checks a contender's output: the speed of wrong work does not count. Enters: its output records. Leaves: the faults in them."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from confluent_kafka import Message

from benchmarks.engine import job


@dataclass(slots=True)
class Work:
    """Counts over a contender's output topic."""

    offsets: dict[int, "array[int]"] = field(default_factory=dict)
    count: int = 0
    doubled: int = 0
    gaps: int = 0  # sequences that are not the next one of their conversation
    disordered: int = 0  # messages that are after a later one of their conversation

    def faults(self, expected: int) -> list[str]:
        """The faults, each in words; empty when the work is right."""
        found = [] if self.count == expected else [f"{self.count} outputs instead of {expected}"]
        wrong = {"doubled": self.doubled, "gaps in sequences": self.gaps, "out of order": self.disordered}
        return found + [f"{number} {name}" for name, number in wrong.items() if number]


def check(outputs: Iterable[Message]) -> Work:
    """Reads a whole output topic and counts."""
    work = Work()
    seen = bytearray()
    last: dict[str, tuple[int, int]] = {}
    for record in outputs:
        conversation, message_id, sequence = job.place(record.value() or b"")
        number = job.message_number(message_id)
        if number >= len(seen):
            seen.extend(bytes(number + 100_000 - len(seen)))
        work.doubled += seen[number]
        seen[number] = 1
        before, sequence_before = last.get(conversation, (-1, 0))
        work.gaps += sequence != sequence_before + 1
        work.disordered += number < before
        last[conversation] = (number, sequence)
        work.offsets.setdefault(record.partition() or 0, array("q")).append(record.offset() or 0)
        work.count += 1
    return work


def expected_outputs(records: int) -> int:
    """The number of outputs that the first `records` source records must have: one for each that is not a repetition."""
    return len({value for _, value in job.records(records)})
