"""A process that writes turns into a store on disk until it is killed: `python -m tests.support.table_writer <folder> <mode>`.

Modes: `turns` commits turns; `restore` loads the same rows as if from a changelog; `full` commits turns until the disk is full, which a
limit on the size of files simulates. Every turn is a function of its number, so a test that reads the store afterwards knows what it must
hold at its position. The process prints each committed position.
"""

import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from tables.stores import rocksdb_folder
from tables.stores.rocksdb import RocksDBTable
from tables.table import StoreFailed
from tests.support.table_contract import Note, NoteLayout

LAYOUT = NoteLayout()
IDENTITY = "cluster/notes/0"
KEYS = 3_000
SMALL_BUFFER = 64 * 1024  # bytes; so small that RocksDB writes and merges files all the time
FILE_LIMIT = 40_000  # bytes
Turn = dict[bytes, Note | None]


def turns() -> Iterator[tuple[int, Turn]]:
    """For every turn: the position after it, and what it writes. A tombstone is written only for a row that exists."""
    rows: set[bytes] = set()
    position = 0
    for number in range(1_000_000):
        chance = random.Random(number)  # noqa: S311  # repeatable, not secret
        turn: Turn = {}
        for _ in range(chance.randrange(1, 60)):
            key = b"%d" % chance.randrange(KEYS)
            if chance.random() < 0.3 and key in rows and key not in turn:
                turn[key] = None
            else:
                turn[key] = Note(number, chance.choice([None, number * 1000, chance.randrange(10**9)]))
        rows = (rows | {key for key, row in turn.items() if row}) - {key for key, row in turn.items() if row is None}
        position += len(turn) + 1  # the rows, and the transaction's commit marker
        yield position, turn


def rows_at(position: int | None) -> dict[bytes, Note]:
    """Exactly the rows that a store at this position must hold. A turn must have ended there."""
    rows: dict[bytes, Note] = {}
    if position is None:
        return rows
    for end, turn in turns():
        for key, row in turn.items():
            if row is None:
                del rows[key]
            else:
                rows[key] = row
        if end >= position:
            assert end == position, "no turn ended there"
            break
    return rows


def opened(folder: Path) -> RocksDBTable[Note]:
    return RocksDBTable(LAYOUT, folder, identity=IDENTITY)


def write(table: RocksDBTable[Note], *, loading: bool) -> None:
    start = table.position or 0
    for position, turn in turns():
        if position <= start:
            continue
        for key, row in turn.items():
            if loading:
                table.load(key, None if row is None else LAYOUT.encode(row))
            elif row is None:
                table.delete(key)
            else:
                table.put(key, row)
        if loading:
            table.loaded(position)
        else:
            table.changes()
            table.commit(position)
        print(position, flush=True)


def main() -> None:
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    rocksdb_folder.WRITE_BUFFER_BYTES = SMALL_BUFFER
    if mode == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
    try:
        write(opened(folder), loading=mode == "restore")
    except StoreFailed as error:
        print(f"failed: {error}", flush=True)


if __name__ == "__main__":
    main()
