"""Stage register: writes contacts, suppressions and dead letters to PostgreSQL, and dead letters without their bytes to ClickHouse.

In: contacts, suppressions, dead-letters. Out: PostgreSQL, ClickHouse, dead letters of contacts and suppressions. Guaranteed: PostgreSQL has
each record exactly once, as in stage archive. ClickHouse gets a dead letter before PostgreSQL has it, so perhaps twice; it keeps one of the
two. A dead letter that cannot be read is counted and passed: as a dead letter of its own it would come back for ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipelines.contacts import contact_in
from pipelines.engine.stage import Decision, Inputs, Record, Refusal, Source
from pipelines.postgres_stage import PartitionWrites, PostgresStage, State, offsets_of
from schemas import codec, metrics
from schemas.keys import named_in, shown, suppression_key
from schemas.records import Contact, DeadLetter, Suppression
from sinks.clickhouse import ClickHouseFacts
from sinks.register_sink import PostgresRegister, RegisterBatch

INTERVAL_MS = 1000  # nobody waits for these rows, and an idle worker should rest
FETCH_WAIT_MS = 2000
MOST_BYTES = 16 << 20  # of a transaction: a dead letter may have 4 MB, and PostgreSQL and we hold it several times


@dataclass(slots=True)
class Registered(PartitionWrites):
    """One partition's batch: the last record of each contact (None: deleted) and of each suppression, and all dead letters."""

    contacts: dict[tuple[str, str], Contact | None] = field(default_factory=dict)
    suppressions: dict[bytes, Suppression] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)


class Register(PostgresStage[Registered]):
    """`facts` gets the dead letters first. While either database is unavailable, `write` retries without end. See PostgresStage."""

    name = "register"
    sources = (Source("contacts", compacted=True), Source("suppressions", compacted=True), Source("dead-letters"))
    turn_records = 2000
    fetch_min_bytes = 65_536
    fetch_wait_ms = FETCH_WAIT_MS

    def __init__(self, *, sink: PostgresRegister, facts: ClickHouseFacts, interval_ms: int = INTERVAL_MS) -> None:
        super().__init__(
            sink=sink, interval_ms=interval_ms, databases="PostgreSQL and ClickHouse", most_bytes=MOST_BYTES
        )
        self._facts = facts

    async def start(self) -> None:
        """Connects to both databases; raises Unavailable or NotMigrated."""
        await super().start()
        await self._facts.open()

    async def stop(self) -> None:
        await super().stop()
        await self._facts.close()

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:  # noqa: ARG002  # no state, no time
        """Decodes the records into `decision.writes`. Refuses a contact or a suppression that cannot be decoded or has another's key, but
        no dead letter. Raises nothing on purpose."""
        writes = Registered()
        decision = Decision(writes=writes)
        for record in inputs.records:
            try:
                if record.topic == "dead-letters":
                    _take_letter(record, writes, decision)
                elif record.topic == "contacts":
                    _take_contact(record, writes)
                else:
                    _take_suppression(record, writes)
            except codec.CodecError as error:
                decision.refusals.append(Refusal(record, error.cause, str(error)))
            except ValueError as error:
                decision.refusals.append(Refusal(record, "wrong_key", str(error)))
            writes.passed(record)
        return decision

    async def write_group(self, group: Sequence[Registered], sent: Callable[[], None]) -> None:
        """ClickHouse first, then one transaction in PostgreSQL."""
        batch = RegisterBatch(
            {name: contact for writes in group for name, contact in writes.contacts.items()},
            [each for writes in group for each in writes.suppressions.values()],
            [each for writes in group for each in writes.letters],
        )
        with metrics.SINK_SECONDS.labels(self.name).time():
            await self._facts.insert_dead_letters(batch.letters)
            await self._sink.write(batch, offsets_of(group), sent)
        metrics.SINK_ROWS.labels(self.name).observe(len(batch.contacts) + len(batch.suppressions) + len(batch.letters))


def _take_letter(record: Record, writes: Registered, decision: Decision) -> None:
    try:
        writes.letters.append(codec.decode(record.value, DeadLetter))
    except codec.CodecError:
        decision.count("unreadable_dead_letter")


def _take_contact(record: Record, writes: Registered) -> None:
    key = record.key or b""
    if record.value is None:
        writes.contacts[named_in(key.decode(errors="replace"))] = None
        return
    contact = contact_in(key, record.value)
    name = contact.tenant_id, contact.user_id
    before = writes.contacts.get(name)
    if before is None or before.updated_at <= contact.updated_at:
        writes.contacts[name] = contact


def _take_suppression(record: Record, writes: Registered) -> None:
    """A tombstone is nothing: stage match lifts a suppression with a record."""
    if record.value is None:
        return
    found = codec.decode(record.value, Suppression)
    key = suppression_key(found.tenant_id, found.channel, found.account, found.address).encode()
    if record.key != key:
        raise ValueError(f"the record is of suppression {shown(key)}, not of {shown(record.key)}")
    before = writes.suppressions.get(key)
    if before is None or before.changed_at <= found.changed_at:
        writes.suppressions[key] = found
