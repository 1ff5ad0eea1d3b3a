"""Files and folders that only their owner can read, whatever the umask is."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engine.crash_loop import EndReason
from schemas import private_files
from simulators.provider_log import Log
from tables.stores.rocksdb_folder import RocksDBFolder


@pytest.fixture(autouse=True)
def _an_open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_new_folders_are_private_and_others_keep_their_mode(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    made = private_files.make_folder(tmp_path / "there" / "stack" / "dev")
    assert [mode(folder) for folder in (made, made.parent, made.parent.parent)] == [0o700, 0o700, 0o755]
    assert private_files.make_folder(made) == made


def test_files_are_private_from_their_creation_on(tmp_path: Path) -> None:
    with private_files.append_to(tmp_path / "log") as log:
        assert mode(tmp_path / "log") == 0o600
        log.write(b"one\n")
    with private_files.append_to(tmp_path / "log") as log:
        log.write(b"two\n")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    (tmp_path / "log").chmod(0o644)
    private_files.append_to(tmp_path / "log").close()
    assert mode(tmp_path / "log") == 0o600
    (tmp_path / "open").touch(mode=0o644)
    private_files.write(tmp_path / "open", "secret")
    assert (mode(tmp_path / "open"), (tmp_path / "open").read_text()) == (0o600, "secret")


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for attempt in (
        lambda: private_files.append_to(tmp_path / "link"),
        lambda: private_files.write(tmp_path / "link", "text"),
    ):
        with pytest.raises(OSError, match="symbolic links"):
            attempt()
    assert not (tmp_path / "target").exists()


def test_tables_on_disk_and_what_a_worker_keeps_beside_them_are_for_their_owner_only(tmp_path: Path) -> None:
    """A worker may be started with any umask."""
    database = RocksDBFolder(tmp_path / "data" / "core" / "tables" / "3", "of the tests")
    database.close()
    EndReason(tmp_path / "words" / "core").write("partition 3: of a person")
    for folder in ("data", "data/core", "data/core/tables", "data/core/tables/3", "words", "words/core"):
        assert mode(tmp_path / folder) == 0o700
    assert mode(tmp_path / "words" / "core" / ".end-reason") == 0o600


def test_requests_to_a_simulator_are_for_its_owner_only(tmp_path: Path) -> None:
    log = Log(tmp_path / "simulators" / "calls.jsonl")
    assert (mode(tmp_path / "simulators"), mode(tmp_path / "simulators" / "calls.jsonl")) == (0o700, 0o600)
    log.close()
