"""Migrations on real databases: each file once, two at once, and a changed file refused."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from sinks import migrate as command
from sinks.clickhouse import connect
from sinks.migrate import MigrationFailed, migrate, planned, statements
from sinks.migration_files import DDL, MigrationRefused, migrations
from sinks.migration_guards import LOCK
from tests.support.sink_databases import clickhouse_database, postgres_database


@pytest.fixture
def urls(postgres_url: str, clickhouse_url: str) -> Iterator[tuple[str, str]]:
    with (
        postgres_database(postgres_url, migrated=False) as postgres,
        clickhouse_database(clickhouse_url, migrated=False) as clickhouse,
    ):
        yield postgres, clickhouse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(DDL, tmp_path / "ddl")
    return tmp_path / "ddl"


ALL = [f"{database}/{m.name}" for database in ("postgres", "clickhouse") for m in migrations(database)]


def test_each_file_is_applied_once(urls: tuple[str, str]) -> None:
    assert len(ALL) >= 5
    assert migrate(*urls) == ALL
    assert migrate(*urls) == []


def test_two_at_once_apply_each_file_once(urls: tuple[str, str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(lambda _: migrate(*urls), range(4)))
    assert sorted(name for names in applied for name in names) == sorted(ALL)
    assert [names for names in applied if names] == [ALL]


@pytest.mark.parametrize("name", ["postgres/0001_archive.sql", "clickhouse/0003_reports.sql"])
def test_a_changed_file_is_refused_in_one_sentence(urls: tuple[str, str], folder: Path, name: str) -> None:
    migrate(*urls, folder)
    (folder / name).write_text((folder / name).read_text(encoding="utf-8") + "\n-- one more word\n", encoding="utf-8")
    (folder / name).with_name("0099_more.sql").write_text(
        "create table more (a Int32) engine = Memory;\n", encoding="utf-8"
    )
    with pytest.raises(MigrationRefused, match=f"^{name} was changed after it was applied: [^.]*$"):
        migrate(*urls, folder)
    assert not table_exists(urls, "more")


def test_a_file_that_fails_leaves_nothing_of_itself_and_can_be_mended(urls: tuple[str, str], folder: Path) -> None:
    migrate(*urls, folder)
    extra = folder / "postgres" / "0099_more.sql"
    extra.write_text("create table more (a int);\ncreate table wrong (a no_such_type);\n", encoding="utf-8")
    with pytest.raises(
        MigrationFailed, match=r"^postgres/0099_more\.sql was not applied: .*no_such_type.* when the cause is removed$"
    ):
        migrate(*urls, folder)
    assert not table_exists(urls, "more")
    extra.write_text("create table more (a int);\n", encoding="utf-8")
    assert migrate(*urls, folder) == ["postgres/0099_more.sql"]


def test_a_clickhouse_file_interrupted_half_way_is_finished_by_the_next_run(
    urls: tuple[str, str], folder: Path
) -> None:
    client = connect(urls[1])
    client.command(statements((folder / "clickhouse" / "0001_facts.sql").read_text(encoding="utf-8"))[0])
    client.close()
    assert migrate(*urls, folder) == ALL


def test_a_refusal_of_one_database_changes_nothing_in_the_other(urls: tuple[str, str], folder: Path) -> None:
    (folder / "postgres" / "0099_more.sql").write_text("create table more (a int);\n", encoding="utf-8")
    (folder / "clickhouse" / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(MigrationRefused, match=r"^clickhouse/notes\.txt is not named like a migration"):
        migrate(*urls, folder)
    assert not table_exists(urls, "more")
    assert not table_exists(urls, "applied_migrations")


def test_a_migration_that_waits_too_long_names_who_holds_the_lock(urls: tuple[str, str]) -> None:
    with psycopg.connect(urls[0], autocommit=True, application_name="a colleague") as other:
        other.execute("select pg_advisory_lock(%s)", (LOCK,))
        refusal = (
            rf"^another migration runs: session {other.info.backend_pid} \(a colleague, from [^)]+\) has held the lock for more than "
            r"0\.2 s; wait until it ends, then run this again$"
        )
        with pytest.raises(MigrationRefused, match=refusal):
            migrate(*urls, wait_seconds=0.2)
        assert planned(*urls) == ALL  # asks for no lock
    assert not table_exists(urls, "messages")


def test_check_lists_what_would_be_applied_and_changes_nothing(
    urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", urls[0])
    monkeypatch.setenv("CHAT4ALL_CLICKHOUSE_URL", urls[1])
    assert command.main(["--check"]) == 1
    assert capsys.readouterr() == ("".join(f"would apply {name}\n" for name in ALL), "")
    assert not table_exists(urls, "applied_migrations")
    assert command.main([]) == 0
    assert capsys.readouterr() == ("".join(f"applied {name}\n" for name in ALL), "")
    for options in (["--check"], []):
        assert command.main(options) == 0
        assert capsys.readouterr() == ("nothing to apply\n", "")


def test_two_files_with_one_number_are_refused(folder: Path) -> None:
    (folder / "postgres" / "0001_again.sql").write_text("select 1;\n", encoding="utf-8")
    with pytest.raises(
        MigrationRefused, match=r"0001_again\.sql and postgres/0001_archive\.sql have the same number: [^.]*$"
    ):
        migrations("postgres", folder)


def test_statements_end_at_semicolons_that_end_a_line() -> None:
    assert statements("-- a; b\nselect ';' as x;\n\nselect\n  2;\n-- the end\n") == ["select ';' as x", "select\n  2"]


def table_exists(urls: tuple[str, str], name: str) -> bool:
    client = connect(urls[1])
    in_clickhouse = client.command(f"exists table {name}")
    client.close()
    with psycopg.connect(urls[0]) as connection:
        row = connection.execute("select to_regclass(%s) is not null", (name,)).fetchone()
    return bool(in_clickhouse) or bool(row and row[0])
