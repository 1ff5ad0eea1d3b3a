"""The process with open deliveries: `python -m benchmarks.receipts.open_deliveries FOLDER DELIVERIES`. Prints one line of JSON.

Enters: an empty folder for RocksDB. It fills the tables of track through the table API, turn by turn, with what track keeps for deliveries
that a provider has accepted: timelines, messages, cursors, and who is awaited. Then come receipts for deliveries chosen at random. Leaves:
resident bytes before, after each of the two, and at most.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from pipelines.track import Track
from tables import cursors
from tables.cursors import MemberCursor, cursor_key
from tables.messages import LoggedMessage, sequence_key
from tables.stalled import Awaited
from tables.stores.factory import open_partition
from tables.table import Table
from tables.timelines import Timeline

PARTITIONS = 4  # as in the development stack; one process owns all
A_CONVERSATION = 10  # open deliveries of a conversation
A_TURN = 50  # conversations, so 500 deliveries
UPDATES = 100_000
START = 1_790_000_000_000  # Unix milliseconds
DAY_MS = 86_400_000
SPREAD = 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd: different numbers have different ids, in no order
Tables = Mapping[str, Table[Any]]


def measure(folder: Path, deliveries: int) -> dict[str, float]:
    """Resident bytes and seconds. Ends the process if a delivery is missing."""
    before = _resident()
    partitions = [
        {
            layout.name: open_partition("rocksdb", layout, folder / f"{n}-{layout.name}", "bench")
            for layout in Track.tables
        }
        for n in range(PARTITIONS)
    ]
    began = time.monotonic()
    conversations = deliveries // A_CONVERSATION
    for turn, first in enumerate(range(0, conversations, A_TURN)):
        tables = partitions[turn % PARTITIONS]
        for conversation in range(first, min(conversations, first + A_TURN)):
            _open_deliveries(tables, conversation)
        _end_turn(tables, turn)
    filled, seconds = _resident(), time.monotonic() - began
    held = sum(len(tables["timelines"]) for tables in partitions)
    if held != conversations * A_CONVERSATION or sum(len(tables["awaiting"]) for tables in partitions) != held:
        raise SystemExit(f"wrong work, not measured: the tables hold {held} of {deliveries} deliveries")
    began = time.monotonic()
    _update(partitions, conversations)
    return {
        "deliveries": held,
        "before": before,
        "filled": filled,
        "updated": _resident(),
        "most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "disk": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "fill_seconds": seconds,
        "update_seconds": time.monotonic() - began,
    }


def _open_deliveries(tables: Tables, conversation: int) -> None:
    """All deliveries of one conversation, as after the provider's acceptance."""
    name, person = _uuid(2 * conversation + 1), f"1555{conversation:07d}"
    for seq in range(1, A_CONVERSATION + 1):
        number = conversation * A_CONVERSATION + seq
        at, message, key = START + number, _uuid(2 * number), _delivery_id(number)
        row = Timeline(
            "default", name, True, message, seq, "whatsapp", "106540352242922", person, person, "text", at, at + 20
        )
        tables["timelines"].put(
            key.encode(),
            row._replace(
                version=2,
                ready_at=at + 40,
                dispatched_at=at + 60,
                first_dispatched_at=at + 60,
                sent_at=at + 300,
                attempts=1,
                provider_message_id=f"wamid.HBgLMTU1NTAwMDAwMDAVAgARGBI{key[:24].upper()}AA==",
                events=(number * SPREAD & (1 << 64) - 1,),
                updated_at=at + 310,
                number=seq,
            ),
        )
        logged = LoggedMessage("default", name, message, seq, "OUTBOUND", "text", at + 20, at + 20, (key,))
        tables["messages"].put(sequence_key("default", name, seq), logged)
        tables["awaiting"].put(key.encode(), Awaited(at + DAY_MS))
    cursor = MemberCursor("default", name, person, made=A_CONVERSATION, made_seq=A_CONVERSATION, sees_delivered=True)
    tables["cursors"].put(cursor_key("default", name, person).encode(), cursor._replace(sees_read=True))


def _update(partitions: Sequence[Tables], conversations: int) -> None:
    """UPDATES receipts of arrival, in turns of one partition each."""
    chance, turns = random.Random(1), conversations // A_TURN  # noqa: S311  # no secret
    a_turn = A_TURN * A_CONVERSATION
    for turn in range(UPDATES // a_turn):
        tables = partitions[turn % PARTITIONS]
        for _ in range(a_turn):
            of = chance.randrange(turn % PARTITIONS, max(turns, PARTITIONS), PARTITIONS)  # the turn that made it
            conversation = min(of * A_TURN + chance.randrange(A_TURN), conversations - 1)
            _receipt(tables, conversation, chance.randint(1, A_CONVERSATION))
        _end_turn(tables, turns + turn)


def _receipt(tables: Tables, conversation: int, seq: int) -> None:
    key = _delivery_id(conversation * A_CONVERSATION + seq).encode()
    row = tables["timelines"].get(key)
    if row is None:
        raise SystemExit("wrong work, not measured: a delivery is missing")
    at = row.updated_at + 2000
    tables["timelines"].put(key, row._replace(version=3, delivered_at=at, updated_at=at, events=(*row.events, at)))
    tables["awaiting"].delete(key)
    member = cursor_key("default", row.conversation_id, row.recipient).encode()
    cursor: MemberCursor = tables["cursors"].get(member) or MemberCursor("default", row.conversation_id, row.recipient)
    tables["cursors"].put(member, cursors.ended(cursor, seq, seq, observed=True)._replace(version=cursor.version + 1))


def _end_turn(tables: Tables, turn: int) -> None:
    for table in tables.values():
        table.commit(turn + 1 if table.changes() else None)


def _delivery_id(number: int) -> str:
    return f"{number * SPREAD & (1 << 128) - 1:032x}"


def _uuid(number: int) -> str:
    digits = _delivery_id(number + (1 << 40))
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
