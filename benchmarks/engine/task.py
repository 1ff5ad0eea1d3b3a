"""What a contender is told on its command line: `python -m benchmarks.engine.<contender> KAFKA SOURCE OUT GROUP PARTITIONS FOLDER TURN`."""

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Task:
    """One run of one contender."""

    kafka_url: str
    source: str
    out: str
    group: str  # consumer group, and beginning of the names of its changelogs
    partitions: int
    folder: Path  # for what it keeps on disk
    turn_records: int = 2000  # records a transaction of one partition, at most, where the contender lets one choose

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
        """The name Faust and Kafka Streams give it too."""
        return f"{self.group}-{table}-changelog"


def given() -> Task:
    """The task of this process."""
    kafka_url, source, out, group, partitions, folder, turn_records = sys.argv[1:8]
    return Task(kafka_url, source, out, group, int(partitions), Path(folder), int(turn_records))
