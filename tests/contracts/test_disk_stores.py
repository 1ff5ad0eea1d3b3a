"""A store on disk after its process was killed, or its files were truncated, replaced, deleted, or belong to another table or version.

Either it holds the rows of one committed turn and the position of exactly that turn, or it is rebuilt, empty and without a position, and
one log line says why.
"""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rocksdict
from structlog.testing import capture_logs

from tables.stores import rocksdb, rocksdb_folder
from tables.stores.rocksdb import RocksDBTable
from tables.table import StoreFailed, StoreInUse
from tests.support.source_tree import REPOSITORY
from tests.support.table_contract import Note, NoteLayout
from tests.support.table_writer import IDENTITY, LAYOUT, SMALL_BUFFER, opened, rows_at, turns, write

# --- killed -------------------------------------------------------------------------------------------------------------


def killed_after(folder: Path, lines: int, mode: str) -> int:
    """Lets a process write until it has printed that many positions, kills it with SIGKILL, and returns the last position it printed."""
    command = [sys.executable, "-m", "tests.support.table_writer", str(folder), mode]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        printed = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        printed += child.stdout.readlines()
    return int([line for line in printed if line.endswith("\n")][-1])


def holds_what_its_position_says(folder: Path) -> int:
    table = opened(folder)
    rows = rows_at(table.position)
    times = {key: row.at for key, row in rows.items() if row.at is not None}
    assert dict(table.items()) == rows
    assert len(table) == len(rows)
    assert table.oldest() == min(times.values(), default=None)
    assert table.expired(10**12, 10**6) == sorted(times, key=lambda key: (times[key], key))
    position = table.position or 0
    table.close()
    return position


@pytest.mark.parametrize("mode", ["turns", "restore"])
def test_a_killed_store_is_at_its_position(tmp_path: Path, mode: str) -> None:
    """Several times on the same folder, so that the process is also killed while it opens the store again."""
    for lines in (1, 40, 300, 7, 1500):
        printed = killed_after(tmp_path / "store", lines, mode)
        assert holds_what_its_position_says(tmp_path / "store") >= printed, "committed rows survive the process"


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_store_that_lost_the_end_of_its_log_is_at_its_position(tmp_path: Path, damage: str) -> None:
    """After a crash of the machine, the end of the log is missing or garbage: the store is older, and so is its position."""
    for round_ in range(4):
        folder = tmp_path / str(round_)
        printed = killed_after(folder, 700, "turns")
        log = max(folder.glob("*.log"))
        content = bytearray(log.read_bytes())
        lost = random.Random(round_).randrange(1, max(2, len(content)))  # noqa: S311  # repeatable, not secret
        log.write_bytes(content[:-lost] if damage == "cut" else content[:-lost] + b"\x5a" * lost)
        assert holds_what_its_position_says(folder) <= printed + 100 * 60
        write_some(folder)


def write_some(folder: Path) -> None:
    """Continues the store from its position."""
    table = opened(folder)
    before = table.position or 0
    for position, turn in turns():
        if position > before:
            for key, row in turn.items():
                table.load(key, None if row is None else LAYOUT.encode(row))
            table.loaded(position)
            if position > before + 2000:
                break
    table.close()
    assert holds_what_its_position_says(folder) > before


def test_a_full_disk_ends_the_worker_and_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.table_writer", str(tmp_path / "store"), "full"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=100)
    *printed, failed = done.stdout.splitlines()
    assert failed.startswith("failed: table store ")
    assert holds_what_its_position_says(tmp_path / "store") >= int(printed[-1])


# --- damaged, of another table, of another version ----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A store with rows in its files and in its log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rocksdb_folder, "WRITE_BUFFER_BYTES", SMALL_BUFFER)
        table = opened(tmp_path / "store")
        fill(table)
        table.close()
        assert list((tmp_path / "store").glob("*.sst"))
        yield tmp_path / "store"


def fill(table: RocksDBTable[Note]) -> None:
    for position, turn in turns():
        for key, row in turn.items():
            table.load(key, None if row is None else LAYOUT.encode(row))
        table.loaded(position)
        if position > 20_000:
            return


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def replace_all(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    rocksdict.Rdict(str(folder)).close()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no CURRENT": lambda folder: (folder / "CURRENT").unlink(),
    "garbage CURRENT": lambda folder: (folder / "CURRENT").write_bytes(b"garbage"),
    "manifest cut": lambda folder: cut_in_half(next(folder.glob("MANIFEST-*"))),
    "manifest gone": lambda folder: next(folder.glob("MANIFEST-*")).unlink(),
    "file of rows cut": lambda folder: cut_in_half(next(folder.glob("*.sst"))),
    "file of rows gone": lambda folder: next(folder.glob("*.sst")).unlink(),
    "another database": replace_all,
}


def is_rebuilt(folder: Path, identity: str = IDENTITY) -> None:
    """Opens the store, and checks that it was rebuilt, that one log line says so, and that it works."""
    with capture_logs() as lines:
        table = RocksDBTable(LAYOUT, folder, identity=identity)
    assert [line["event"] for line in lines] == ["table store is rebuilt"]
    assert lines[0]["folder"] == str(folder)
    assert "\n" not in lines[0]["reason"]
    assert (table.position, len(table), list(table.items()), table.oldest()) == (None, 0, [], None)
    fill(table)
    table.close()
    with capture_logs() as lines:
        table = RocksDBTable(LAYOUT, folder, identity=identity)
    assert dict(table.items()) == rows_at(table.position) != {}
    assert lines == []
    table.close()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_store_is_rebuilt_and_logged(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    is_rebuilt(folder)


@pytest.mark.parametrize(
    "identity", ["cluster/notes/1", "cluster/others/0", "other/notes/0"], ids=["partition", "topic", "cluster"]
)
def test_a_store_of_another_table_is_rebuilt_and_logged(folder: Path, identity: str) -> None:
    is_rebuilt(folder, identity=identity)


def test_a_store_of_another_format_is_rebuilt_and_logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocksdb, "FORMAT", rocksdb.FORMAT + 1)
    is_rebuilt(folder)


def test_a_store_of_another_layout_version_is_rebuilt_and_logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoteLayout, "version", 2)
    is_rebuilt(folder)


def test_a_deleted_store_starts_empty_and_logs_nothing(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with capture_logs() as lines:
        table = opened(folder)
    assert (table.position, len(table), lines) == (None, 0, [])
    table.close()


def test_damage_found_while_reading_ends_the_worker_and_the_next_one_rebuilds(folder: Path) -> None:
    """RocksDB's own iterator would end at the damage, as if there were no more rows."""
    file = max(folder.glob("*.sst"), key=lambda file: file.stat().st_size)  # of the older rows
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = b"\x00" * 64
    file.write_bytes(content)
    table = opened(folder)
    with pytest.raises(StoreFailed, match="is damaged; the next start rebuilds it"):
        list(table.items())
    with pytest.raises(StoreFailed, match="is damaged"):
        read_each(table)
    table.close()
    is_rebuilt(folder)


def read_each(table: RocksDBTable[Note]) -> None:
    for key in rows_at(table.position):
        table.get(key)


# --- refused ------------------------------------------------------------------------------------------------------------


def test_files_that_do_not_belong_to_a_store_are_not_deleted(folder: Path) -> None:
    (folder / "thesis.txt").write_text("ten years of work")
    (folder / "CURRENT").unlink()
    files = set(folder.iterdir())
    with pytest.raises(StoreFailed, match=r"thesis\.txt does not belong to a store"):
        opened(folder)
    assert set(folder.iterdir()) >= files


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed, match=r"table store .*file"):
        opened(tmp_path / "file" / "store")


def test_a_store_is_opened_once(folder: Path) -> None:
    table = opened(folder)
    with pytest.raises(StoreInUse, match="in use"):
        opened(folder)
    assert dict(table.items()) == rows_at(table.position), "the first one still works"
    table.close()


def test_a_store_of_another_process_is_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.table_writer", str(tmp_path / "store"), "turns"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(StoreInUse, match="in use"):
            opened(tmp_path / "store")
        child.kill()
        child.stdout.read()
    holds_what_its_position_says(tmp_path / "store")


def test_a_store_can_be_filled_in_one_thread_and_used_in_another(tmp_path: Path) -> None:
    """As the engine does: it restores in a thread, not on the event loop."""
    with ThreadPoolExecutor(1) as executor:
        table = executor.submit(opened, tmp_path / "store").result()
        executor.submit(fill, table).result()
    assert dict(table.items()) == rows_at(table.position)
    table.close()


def test_rows_need_a_position_and_positions_only_rise(folder: Path) -> None:
    table = opened(folder)
    held, rows = table.position or 0, dict(table.items())
    table.put(b"new", Note(1, 1))
    with pytest.raises(ValueError, match="no position was given"):
        table.commit()
    with pytest.raises(ValueError, match="is before"):
        table.commit(held - 1)
    table.close()
    table = opened(folder)
    assert (table.position, dict(table.items())) == (held, rows), "nothing was written"
    table.close()


def test_the_positions_of_a_writer_are_those_of_its_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model above proves something only if a store that was not killed agrees with it."""
    table = opened(tmp_path / "store")
    monkeypatch.setattr(table, "changes", stop_after(500, table.changes))
    with pytest.raises(KeyboardInterrupt):
        write(table, loading=False)
    table.close()
    assert holds_what_its_position_says(tmp_path / "store") > 5000


def stop_after(times: int, function: Callable[[], object]) -> Callable[[], object]:
    left = iter(range(times))

    def stopping() -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function()

    return stopping
