"""One RocksDB database in a folder of its own.

Enters: a folder, and the identity of the database that belongs in it. Guaranteed: a folder with anything else in it (another identity, an
older format, damage) is emptied and a new database is created there, and one log line says why; a changelog still has all of its rows.
Errors of RocksDB are raised as StoreFailed or StoreInUse. If a read finds damage, the folder is marked, and the next start rebuilds it.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import structlog
from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DBCompactionStyle,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    UniversalCompactOptions,
    WriteBatch,
)

from schemas import private_files
from tables.table import StoreFailed, StoreInUse

log = structlog.get_logger(__name__)
MIB = 1024 * 1024
CACHE_BYTES = 128 * MIB  # shared by all databases of the process
# One database has up to three buffers, of which two may be in the middle of a write to a file. With one budget for all databases, a busy
# database would write tiny files, because idle ones keep their share.
WRITE_BUFFER_BYTES = 16 * MIB
# Number of sorted files from which RocksDB merges them: more files make reads slower and writes faster.
FILES = 4
FILES_WHILE_FILLED = 16
_IDENTITY = b"\x00identity"
STATE = b"\x00state"
_FILES = re.compile(
    r"CURRENT|IDENTITY|LOCK|LOG(\.old\.\d+)?|MANIFEST-\d+|OPTIONS-\d+(\.dbtmp)?|\d+\.(sst|log|blob|dbtmp)|rocksdict-config\.json"
)
_IN_USE = ("While lock file", "lock hold by current process")
# Errors of the machine, not of the folder: a rebuild would delete the store and solve nothing.
_MACHINE = {
    "No space left on device": "the disk is full: free space and start again",
    "Disk quota exceeded": "the disk quota is used up: free space and start again",
    "File too large": "a file may not grow further: raise the limit (ulimit -f) and start again",
    "Too many open files": "too many open files: raise the limit (ulimit -n) and start again",
    "Cannot allocate memory": "there is no memory left",
    "Read-only file system": "the file system is read-only",
}


@cache
def _blocks() -> Cache:
    return Cache(CACHE_BYTES)


def _table_options() -> BlockBasedOptions:
    table = BlockBasedOptions()
    table.set_block_cache(_blocks())
    table.set_block_size(8 * 1024)
    table.set_format_version(5)
    # Index and filter are split into parts of a block's size, inside the cache. Whole ones would not fit into a shard of the cache, and
    # RocksDB would read them again for every row.
    table.set_bloom_filter(10, block_based=False)
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(4 * 1024)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_top_level_index_and_filter(True)
    return table


def _options() -> Options:
    # Keys are written in no order. Leveled compaction would rewrite every file for a few new ones: four times the work in total.
    merging = UniversalCompactOptions()
    merging.max_size_amplification_percent = 50
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(_table_options())
    options.set_compression_type(DBCompressionType.lz4())
    options.set_compaction_style(DBCompactionStyle.universal())
    options.set_universal_compaction_options(merging)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_memtable_prefix_bloom_ratio(0.05)
    options.set_memtable_whole_key_filtering(True)
    options.set_level_zero_file_num_compaction_trigger(FILES)
    options.set_max_background_jobs(2)
    # The changelog restores what a crash cut off the write-ahead log; the log before the cut holds whole turns.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    # rows that expire leave long runs of deletions; this makes RocksDB compact them
    options.add_compact_on_deletion_collector_factory(4096, 2048, 0.5)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


class RocksDBFolder:
    """Keys and values are bytes. Of the keys that begin with a zero byte, the user of the class may write STATE only.

    Every method may read or write the disk, so it may block, and raises StoreFailed or StoreInUse. One thread at a time.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity.encode()
        self._db = self._open()

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:  # rocksdict raises nothing more special
            raise self._failed(error) from error
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        try:
            values: list[bytes | None] = self._db.get(keys)  # type: ignore[assignment,arg-type]  # a list for a list
        except Exception as error:  # rocksdict raises nothing more special
            raise self._failed(error) from error
        return values

    def write(self, batch: WriteBatch) -> None:
        """Writes all of the batch or nothing, in the order of the calls. The write survives a crash of the process at once, and a crash of
        the machine after some seconds."""
        try:
            self._db.write(batch)
        except Exception as error:  # rocksdict raises nothing more special
            raise self._failed(error) from error

    def scan(self, start: bytes, end: bytes, at_most: int) -> list[tuple[bytes, bytes]]:
        """At most `at_most` entries with start <= key < end, in the order of keys. Leaves no iterator open."""
        try:
            return list(self._scan(start, end, at_most))
        except Exception as error:  # rocksdict raises nothing more special
            raise self._failed(error) from error

    def merge_above(self, files: int) -> None:
        """Sets the number of files above which RocksDB merges them in the background."""
        try:
            self._db.set_options({"level0_file_num_compaction_trigger": str(files)})
        except Exception as error:  # rocksdict raises nothing more special
            raise self._failed(error) from error

    def clear(self) -> None:
        """Replaces the database by an empty one."""
        self._db.close()
        _empty(self._folder)
        self._db = self._create()

    def close(self) -> None:
        self._db.close()

    def _scan(self, start: bytes, end: bytes, at_most: int) -> Iterator[tuple[bytes, bytes]]:
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(end)
        cursor = self._db.iter(bounds)
        cursor.seek(start)
        for _ in range(at_most):
            if not cursor.valid():
                cursor.status()  # raises if the cursor stopped at damage and not at the end
                return
            yield cursor.key(), cursor.value()
            cursor.next()

    def _open(self) -> Rdict:
        try:
            private_files.make_folder(self._folder)  # the rows hold texts and addresses in plain form
            if not any(self._folder.iterdir()):
                return self._create()
        except OSError as error:
            raise self._failed(error) from error
        db, reason = self._open_ours()
        if db is not None:
            return db
        log.warning("table store is rebuilt", folder=str(self._folder), reason=" ".join(reason.split()))
        _empty(self._folder)
        return self._create()

    def _open_ours(self) -> tuple[Rdict | None, str]:
        """The database, if it can be read and has our identity; otherwise None and what is wrong with it."""
        db = None
        try:
            db = Rdict(str(self._folder), _options())
            found = db.get(_IDENTITY)
            db.get(STATE)  # the first entry that a table reads: if it is damaged, the store is rebuilt at once
            if found == self._identity:
                return db, ""
            reason = f"it is {_text(found)}, not {_text(self._identity)}"
        except Exception as error:
            reason = str(error)
            if any(text in reason for text in (*_IN_USE, *_MACHINE)):
                raise self._failed(error) from error
        if db is not None:
            db.close()
        return None, reason

    def _create(self) -> Rdict:
        try:
            db = Rdict(str(self._folder), _options())
            db[_IDENTITY] = self._identity
        except Exception as error:  # rocksdict raises nothing more special
            raise self._failed(error) from error
        return db

    def _failed(self, error: Exception) -> StoreFailed:
        text = " ".join(str(error).split())
        if any(sign in text for sign in _IN_USE):
            return StoreInUse(
                f"table store {self._folder} is in use, perhaps by another worker with the same data folder"
            )
        for sign, advice in _MACHINE.items():
            if sign in text:
                return StoreFailed(f"table store {self._folder}: {advice} ({text})")
        if not isinstance(error, OSError) and ("Corruption" in text or "No such file" in text):
            (self._folder / "CURRENT").unlink(missing_ok=True)
            return StoreFailed(f"table store {self._folder} is damaged; the next start rebuilds it ({text})")
        return StoreFailed(f"table store {self._folder}: {text}")


def _empty(folder: Path) -> None:
    """Deletes a database's files and nothing else. CURRENT goes first: without it RocksDB does not open the rest."""
    try:
        files = sorted(folder.iterdir(), key=lambda file: file.name != "CURRENT")
        for file in files:
            if not _FILES.fullmatch(file.name):
                raise StoreFailed(
                    f"table store {folder}: {file.name} does not belong to a store; move it, or set another folder"
                )
        for file in files:
            file.unlink()
    except OSError as error:
        raise StoreFailed(f"table store {folder}: its files cannot be deleted: {error}") from error


def _text(identity: bytes | None) -> str:
    return "unnamed" if identity is None else repr(identity.decode(errors="replace"))
