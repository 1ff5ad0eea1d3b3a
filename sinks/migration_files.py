"""The numbered SQL files of sinks/ddl/: which are there, which are missing in a database, and what must be refused.

Enters: a folder, and what a database says was applied to it. Leaves: the files to apply, in order. Guaranteed: a refusal is one sentence
that says which file, why, and what to do. `missing` is pure; `migrations` reads the folder and blocks for that.
"""

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DDL = Path(__file__).parent / "ddl"
_NAME = re.compile(r"\d{4}_[a-z0-9_]+\.sql")


class MigrationRefused(Exception):
    """The files do not continue what was applied, or the servers are not ready for them. Nothing was changed, in neither database."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file of one database."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def number(self) -> int:
        return int(self.name[:4])


def migrations(database: str, folder: Path = DDL) -> list[Migration]:
    """The files of one database (`postgres` or `clickhouse`) in the order of their numbers. Raises MigrationRefused for two files with one
    number, and for a file whose name is none of a migration."""
    paths = sorted(path for path in (folder / database).iterdir() if not path.name.startswith("."))
    for path in paths:
        if not _NAME.fullmatch(path.name):
            raise MigrationRefused(
                f"{database}/{path.name} is not named like a migration (0042_what_it_does.sql): rename it or take it out of the folder"
            )
    found = [Migration(path.name, path.read_text(encoding="utf-8")) for path in paths]
    for one, other in itertools.pairwise(found):
        if one.number == other.number:
            raise MigrationRefused(
                f"{database}/{one.name} and {database}/{other.name} have the same number: give the newer one the next free number"
            )
    return found


def missing(database: str, files: Sequence[Migration], applied: Mapping[str, str]) -> list[Migration]:
    """The files that the database does not have yet, in order. `applied` is name -> checksum, as the database says. Raises
    MigrationRefused."""
    known = {migration.name for migration in files}
    for name in sorted(applied):
        if name not in known:
            raise MigrationRefused(
                f"{database}/{name} was applied to this database and is missing now: use the release that has it (this one may be older), "
                "or restore the file under its name"
            )
    for migration in files:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise MigrationRefused(
                f"{database}/{migration.name} was changed after it was applied: restore it, and put the change into the next number"
            )
    last = max(applied, default="")
    to_apply = [migration for migration in files if migration.name not in applied]
    for migration in to_apply:
        if migration.name < last:
            raise MigrationRefused(
                f"{database}/{migration.name} comes before {last}, which is applied already: give it the next free number"
            )
    return to_apply
