"""Transactional ids of workers: the same one after a restart, never that of a running worker, and one even without a writable disk."""

from pathlib import Path

import pytest

from pipelines.engine.transactional_id import TransactionalId


def test_a_worker_finds_its_name_again_and_two_of_a_folder_have_two(tmp_path: Path) -> None:
    first, second = TransactionalId(tmp_path / "names", "toy"), TransactionalId(tmp_path / "names", "toy")
    names = [first.id, second.id]
    assert len(set(names)) == 2
    assert [first.id, second.id] == names
    first.release()
    third = TransactionalId(tmp_path / "names", "toy")
    assert third.id == names[0]
    second.release()
    third.release()
    assert TransactionalId(tmp_path / "names", "toy").id == names[0]


def test_names_of_two_folders_differ(tmp_path: Path) -> None:
    assert TransactionalId(tmp_path / "a", "toy").id != TransactionalId(tmp_path / "b", "toy").id


def test_a_name_that_another_process_uses_is_given_up_for_good(tmp_path: Path) -> None:
    first = TransactionalId(tmp_path, "toy")
    former = first.id
    first.renew()
    assert first.id not in ("", former)
    renewed = first.id
    first.release()
    assert TransactionalId(tmp_path, "toy").id == renewed


@pytest.mark.parametrize("content", ["", "not a name\n", "\x00\xff"])
def test_a_file_without_a_name_gets_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "0").write_text(content, encoding="latin-1")
    first = TransactionalId(tmp_path, "toy")
    name = first.id
    assert name.removeprefix("toy-0-").isalnum()
    first.release()
    assert TransactionalId(tmp_path, "toy").id == name


def test_a_folder_that_cannot_be_written_ends_no_worker(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("a file", encoding="utf-8")
    first = TransactionalId(tmp_path / "names", "toy")
    assert first.id == first.id
    first.renew()
    first.release()
