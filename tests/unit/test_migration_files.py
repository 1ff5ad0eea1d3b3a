"""Which migrations are applied, and what is refused, in one sentence that says what to do."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.migration_files import DDL, Migration, MigrationRefused, migrations, missing

FILES = [Migration(f"000{n}_file.sql", f"select {n}") for n in range(1, 6)]
SENTENCE = re.compile(r"postgres/\d{4}_\w+\.sql (?:[^.]|\.sql)*: (?:[^.]|\.sql)*")


def applied(*files: Migration) -> dict[str, str]:
    return {file.name: file.checksum for file in files}


@given(st.integers(0, 5))
def test_what_comes_after_the_applied_files_is_applied_in_order(count: int) -> None:
    assert missing("postgres", FILES, applied(*FILES[:count])) == FILES[count:]


@given(st.sets(st.sampled_from(FILES)))
def test_a_file_is_never_applied_before_one_that_is_applied(done: set[Migration]) -> None:
    in_order = sorted(done, key=lambda file: file.number) == FILES[: len(done)]
    if in_order:
        assert missing("postgres", FILES, applied(*done)) == FILES[len(done) :]
    else:
        with pytest.raises(MigrationRefused) as refused:
            missing("postgres", FILES, applied(*done))
        assert SENTENCE.fullmatch(str(refused.value))


@pytest.mark.parametrize(
    ("files", "before", "refusal"),
    [
        (
            FILES[:4],
            FILES,
            "0005_file.sql was applied to this database and is missing now: use the release that has it",
        ),
        (
            [*FILES[:2], *FILES[3:]],
            FILES,
            "0003_file.sql was applied to this database and is missing now: use the release that has it",
        ),
        (
            [Migration("0001_renamed.sql", FILES[0].sql), *FILES[1:]],
            FILES[:1],
            "0001_file.sql was applied to this database and is missing now: ",
        ),
        (
            [Migration("0001_file.sql", "select 9"), *FILES[1:]],
            FILES[:3],
            "0001_file.sql was changed after it was applied: restore it",
        ),
        (FILES, [FILES[0], FILES[2]], "0002_file.sql comes before 0003_file.sql, which is applied already: give it"),
    ],
)
def test_files_that_do_not_continue_what_was_applied_are_refused(
    files: list[Migration], before: list[Migration], refusal: str
) -> None:
    with pytest.raises(MigrationRefused) as refused:
        missing("postgres", files, applied(*before))
    assert str(refused.value).startswith(f"postgres/{refusal}")
    assert SENTENCE.fullmatch(str(refused.value))


@pytest.mark.parametrize("name", ["12_short.sql", "0012-dashes.sql", "0012_notes.txt", "README.md", "0012_Capital.sql"])
def test_a_file_with_another_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "0001_file.sql").write_text("select 1;\n", encoding="utf-8")
    (tmp_path / "postgres" / ".hidden.swp").write_text("", encoding="utf-8")
    assert [file.name for file in migrations("postgres", tmp_path)] == ["0001_file.sql"]
    (tmp_path / "postgres" / name).write_text("select 1;\n", encoding="utf-8")
    with pytest.raises(MigrationRefused, match=f"^postgres/{re.escape(name)} is not named like a migration"):
        migrations("postgres", tmp_path)


def test_our_own_files_are_in_order() -> None:
    for database in ("postgres", "clickhouse"):
        numbers = [file.number for file in migrations(database, DDL)]
        assert numbers == list(range(1, len(numbers) + 1))
