"""Reads back everything that a crash run left in Kafka and in the workers, and compares it with what must be there.

Enters: the source topics, the outputs, the changelogs (read_committed) and the tables of running workers. Leaves: one line for each kind of
error, with an example.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.digests import digest
from tests.support.engine_harness import TABLES, Toy, ask, read_back


@dataclass
class Verdict:
    """What was counted; `findings` is empty when all is well."""

    messages: int = 0
    records: int = 0
    lost: int = 0
    doubled: int = 0
    gaps: int = 0
    unordered: int = 0
    intents: int = 0
    tables: int = 0  # of a partition, that differ from their changelog
    findings: list[str] = field(default_factory=list)

    def find(self, what: str, examples: Sequence[object]) -> int:
        """Records a kind of finding; returns how many there are of it."""
        if examples:
            self.findings.append(f"{len(examples)} {what}, as {examples[0]!r}")
        return len(examples)


def examine(toy: Toy, acknowledged: set[bytes]) -> Verdict:
    """Compares outputs with inputs. The inputs are what the source topics hold, acknowledged or not."""
    verdict = Verdict()
    given: dict[bytes, bytes] = {}  # value -> key
    for source in toy.sources:
        for record in read_back(toy.kafka_url, source):
            verdict.records += 1
            given[record.value or b""] = record.key
    verdict.messages = len(given)
    verdict.find("values acknowledged, but not in Kafka", sorted(acknowledged - set(given)))
    by_key: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
    for record in read_back(toy.kafka_url, f"{toy.name}-out"):
        number, value = (record.value or b"").split(b":", 1)
        by_key[record.key].append((int(number), value))
    seen: set[bytes] = set()
    doubled = [v for lines in by_key.values() for _, v in lines if v in seen or seen.add(v)]  # type: ignore[func-returns-value]  # the set remembers
    verdict.lost = verdict.find("values lost", sorted(set(given) - seen))
    verdict.doubled = verdict.find("values doubled", doubled)
    astray = [(key, value) for key, lines in by_key.items() for _, value in lines if given.get(value) != key]
    verdict.find("values under a key that is not theirs", astray)
    gaps = [key for key, lines in by_key.items() if [n for n, _ in lines] != list(range(1, len(lines) + 1))]
    verdict.gaps = verdict.find("keys with gaps in their numbers", gaps)
    verdict.unordered = verdict.find("values out of order", list(_out_of_order(by_key)))
    return verdict


def _out_of_order(by_key: Mapping[bytes, Sequence[tuple[int, bytes]]]) -> Iterable[tuple[bytes, bytes]]:
    """Plain values keep the order of their key and source, and so do timers; calls may end in any order."""
    for key, lines in by_key.items():
        latest: dict[bytes, bytes] = {}
        for _, value in lines:
            row, _, number = value.rpartition(b"-")  # the kind and the source
            if not row.startswith(b"call:"):
                if number < latest.get(row, b""):
                    yield key, value
                latest[row] = number


def compare_tables(toy: Toy, urls: Iterable[str], verdict: Verdict, when: str) -> None:
    """Compares every partition of every table, as its owner holds it, with the replay of its changelog."""
    held: dict[tuple[str, int], list[str]] = defaultdict(list)
    for url in urls:
        with contextlib.suppress(OSError):  # a worker without an answer holds nothing, and that is a finding
            for table, by_partition in ask(url, "/inside/")["tables"].items():
                for number, found in by_partition.items():
                    held[table, int(number)].append(found)
    differ = []
    for table in TABLES:
        rows: list[dict[bytes, bytes]] = [{} for _ in range(toy.partitions)]
        for record in read_back(toy.kafka_url, toy.changelog(table)):
            if record.value is None:
                rows[record.partition].pop(record.key, None)
            else:
                rows[record.partition][record.key] = record.value
        for number, replayed in enumerate(rows):
            wanted = digest(replayed.items())
            if held[table, number] != [wanted]:
                differ.append(f"{table}-{number} {when}: workers hold {held[table, number]}, the changelog {wanted}")
        if table == "open":
            verdict.intents += verdict.find(f"intents left {when}", [key for replayed in rows for key in replayed])
    verdict.tables += verdict.find("tables not equal to their changelog", differ)
