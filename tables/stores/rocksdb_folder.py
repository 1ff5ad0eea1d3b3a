"""One RocksDB database in a folder of its own, opened only when it is surely ours and whole.

In: a folder and the identity of what is to be in it. A folder with anything else in it (another identity, an older format, damage)
is emptied and begun anew, and one log line says why: everything in it can be had again from a changelog. Errors of RocksDB come out
as StoreFailed or StoreInUse; where they are damage found while reading, the folder is condemned: the next start rebuilds it.
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
CACHE_BYTES = 128 * MIB  # of all databases of the process together
# Of one database: up to three, while two are being written to files. A budget shared by all of them would have a busy database
# write tiny files because idle ones hold on to their share.
WRITE_BUFFER_BYTES = 16 * MIB
# Sorted files that are not merged yet: more of them make reading slower, and writing faster.
FILES = 4
FILES_WHILE_FILLED = 16
_IDENTITY = b"\x00identity"
STATE = b"\x00state"
_FILES = re.compile(
    r"CURRENT|IDENTITY|LOCK|LOG(\.old\.\d+)?|MANIFEST-\d+|OPTIONS-\d+(\.dbtmp)?|\d+\.(sst|log|blob|dbtmp)|rocksdict-config\.json"
)
_IN_USE = ("While lock file", "lock hold by current process")
# Not the folder's fault: rebuilding would lose it and help nothing.
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
    # Index and filter in parts of a block's size, inside the cache: whole ones would not fit into a shard of it and be read anew
    # for every row.
    table.set_bloom_filter(10, block_based=False)
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(4 * 1024)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_top_level_index_and_filter(True)
    return table


def _options() -> Options:
    # Keys come in no order: leveled compaction would rewrite every file for each few new ones, four times the work in all.
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
    # What a crash cut off the log is restored from the changelog; what lies before the cut is whole turns.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    # rows that expire leave long runs of deletions behind; this has them compacted away
    options.add_compact_on_deletion_collector_factory(4096, 2048, 0.5)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


class RocksDBFolder:
    """Keys and values are bytes; of the keys that begin with a zero byte only STATE is its user's."""

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
        """All of it or nothing, on disk in the order of writing; survives the process at once and the machine within seconds."""
        try:
            self._db.write(batch)
        except Exception as error:  # rocksdict raises nothing more special
            raise self._failed(error) from error

    def scan(self, start: bytes, end: bytes, at_most: int) -> list[tuple[bytes, bytes]]:
        """Up to `at_most` entries of start <= key < end, in order. Holds nothing open afterwards."""
        try:
            return list(self._scan(start, end, at_most))
        except Exception as error:  # rocksdict raises nothing more special
            raise self._failed(error) from error

    def merge_above(self, files: int) -> None:
        """Merges files in the background when there are more."""
        try:
            self._db.set_options({"level0_file_num_compaction_trigger": str(files)})
        except Exception as error:  # rocksdict raises nothing more special
            raise self._failed(error) from error

    def clear(self) -> None:
        """Begins anew with an empty database."""
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
                cursor.status()  # raises where it stopped at damage instead of at the end
                return
            yield cursor.key(), cursor.value()
            cursor.next()

    def _open(self) -> Rdict:
        try:
            private_files.make_folder(self._folder)  # texts and addresses are in it as they are
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
        """The database when it is whole and of our identity; otherwise what is wrong with it."""
        db = None
        try:
            db = Rdict(str(self._folder), _options())
            found = db.get(_IDENTITY)
            db.get(STATE)  # what is asked first: where that is damaged, nothing is lost by rebuilding at once
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
            return StoreInUse(f"table store {self._folder} is in use: by another worker with the same data folder?")
        for sign, advice in _MACHINE.items():
            if sign in text:
                return StoreFailed(f"table store {self._folder}: {advice} ({text})")
        if not isinstance(error, OSError) and ("Corruption" in text or "No such file" in text):
            (self._folder / "CURRENT").unlink(missing_ok=True)
            return StoreFailed(f"table store {self._folder} is damaged and is rebuilt at the next start ({text})")
        return StoreFailed(f"table store {self._folder}: {text}")


def _empty(folder: Path) -> None:
    """Deletes a database's files, the one without which it does not open first, and touches nothing else."""
    try:
        files = sorted(folder.iterdir(), key=lambda file: file.name != "CURRENT")
        for file in files:
            if not _FILES.fullmatch(file.name):
                raise StoreFailed(
                    f"table store {folder}: {file.name} is no file of a store; move it, or set another folder"
                )
        for file in files:
            file.unlink()
    except OSError as error:
        raise StoreFailed(f"table store {folder} cannot be deleted: {error}") from error


def _text(identity: bytes | None) -> str:
    return "unnamed" if identity is None else repr(identity.decode(errors="replace"))
