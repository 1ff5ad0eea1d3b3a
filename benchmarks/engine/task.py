"""The arguments of a contender: `python -m benchmarks.engine.<contender> KAFKA SOURCE OUT GROUP PARTITIONS FOLDER TURN`."""

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Task:
    """One run of one contender."""

    kafka_url: str
    source: str
    out: str
    group: str  # consumer group, and the beginning of its changelogs' names
    partitions: int
    folder: Path  # for its files
    turn_records: int = 2000  # most records of a partition in a transaction, where a contender has this setting

    def arguments(self) -> list[str]:
        return [
            self.kafka_url,
            self.source,
            self.out,
            self.group,
            str(self.partitions),
            str(self.folder),
            str(self.turn_records),
        ]

    def changelog(self, table: str) -> str:
        """The name of a table's changelog; Faust and Kafka Streams use the same one."""
        return f"{self.group}-{table}-changelog"


def given() -> Task:
    """The task in the arguments of this process."""
    kafka_url, source, out, group, partitions, folder, turn_records = sys.argv[1:8]
    return Task(kafka_url, source, out, group, int(partitions), Path(folder), int(turn_records))
