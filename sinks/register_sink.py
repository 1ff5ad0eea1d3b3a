"""The register: contacts, suppressions, dead letters and orphan receipts in PostgreSQL.

Enters: batches of records, and the offset that each partition reaches. Leaves: one transaction per batch. Guaranteed: exactly-once
(sinks/postgres_sink.py); what an erased person's records say is not stored (sinks/erased_people.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from psycopg import AsyncConnection

from schemas.records import Contact, DeadLetter, Suppression
from sinks import register_rows
from sinks.postgres_sink import Copied, Offsets, PostgresSink, erased_among, nothing, stage
from sinks.staging import Staging
from sinks.storable_text import key


@dataclass(frozen=True, slots=True)
class RegisterBatch:
    """The rows of one transaction: of each contact and of each suppression the last one only. None is a contact that was deleted."""

    contacts: Mapping[tuple[str, str], Contact | None] = field(default_factory=dict)  # by tenant and user id
    suppressions: Sequence[Suppression] = ()
    letters: Sequence[DeadLetter] = ()


class PostgresRegister(PostgresSink):
    """The sink of the stage register. See PostgresSink."""

    staged: ClassVar[tuple[Staging, ...]] = (
        register_rows.CONTACTS,
        register_rows.SUPPRESSIONS,
        register_rows.LETTERS,
        register_rows.ORPHANS,
    )

    def __init__(self, url: str, *, sink: str = "register") -> None:
        super().__init__(url, sink=sink)

    async def write(self, batch: RegisterBatch, offsets: Offsets, sent: Callable[[], None] = nothing) -> None:
        """Stores the rows in one transaction. See `commit`."""
        await self.commit(batch, offsets, sent)

    async def copy(self, connection: AsyncConnection, batch: Any) -> Copied:
        merges = await self._copy_contacts(connection, batch.contacts)
        if batch.suppressions:
            erased = await erased_among(connection, batch.suppressions)
            rows = {_key(each): erased.blanked(each) for each in map(register_rows.in_one_form, batch.suppressions)}
            # two erased people may have the same word
            await stage(
                connection, register_rows.SUPPRESSIONS, list({_key(each): each for each in rows.values()}.values())
            )
            merges.append((register_rows.MERGE_SUPPRESSIONS, ()))
        if batch.letters:
            merges += await self._copy_letters(connection, batch.letters)
        return Copied(merges)

    async def _copy_contacts(
        self, connection: AsyncConnection, contacts: Mapping[tuple[str, str], Contact | None]
    ) -> list[tuple[str, Sequence[Any]]]:
        if not contacts:
            return []
        erased = await erased_among(connection, [each for each in contacts.values() if each is not None])
        kept = [
            each for each in contacts.values() if each is not None and erased.erased_at(each, each.updated_at) is None
        ]
        names = {(each.tenant_id, each.user_id) for each in kept}
        gone = [name for name in contacts if name not in names]
        merges: list[tuple[str, Sequence[Any]]] = []
        if gone:
            columns = [key(tenant) for tenant, _ in gone], [key(user_id) for _, user_id in gone]
            merges.append((register_rows.DELETE_CONTACTS, columns))
        if kept:
            await stage(connection, register_rows.CONTACTS, kept)
            merges.append((register_rows.MERGE_CONTACTS, ()))
        return merges

    async def _copy_letters(
        self, connection: AsyncConnection, letters: Sequence[DeadLetter]
    ) -> list[tuple[str, Sequence[Any]]]:
        # The records inside are decoded again for each letter: all of them at once would take as much memory as the letters.
        named = (found for letter in letters if (found := register_rows.inside(letter)) is not None)
        erased = await erased_among(connection, named)
        await stage(connection, register_rows.LETTERS, (register_rows.letter_row(each, erased) for each in letters))
        orphans = [row for each in letters if (row := register_rows.orphan_row(each)) is not None]
        if not orphans:
            return [(register_rows.MERGE_LETTERS, ())]
        await stage(connection, register_rows.ORPHANS, orphans)
        return [(register_rows.MERGE_LETTERS, ()), (register_rows.MERGE_ORPHANS, ())]


def _key(suppression: Suppression) -> tuple[str, str, str, str]:
    return suppression.tenant_id, suppression.channel, suppression.account, suppression.address
