"""Both databases of a check, filled as the sinks fill them, without workers: a few conversations, tenants, channels and hours."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from clickhouse_connect.driver.client import Client

from schemas.records import Cause, Cursor, DeliveryState, SequencedMessage, Status
from sinks.clickhouse import ClickHouseFacts, connect
from sinks.fact_tables import ACCEPTED, accepted
from sinks.postgres import PostgresArchive
from tests.support.sink_databases import T0, clickhouse_database, postgres_database, sequenced, state

HOUR_MS = 3_600_000
CHANNELS = ("whatsapp", "telegram", "instagram")
# The first message was accepted two days ago: within what both databases keep, whenever a test runs.
SHIFT_MS = (int(time.time() * 1000) // HOUR_MS - 48) * HOUR_MS - T0
EACH = 12  # messages of a conversation
CONVERSATIONS = (("default", "c1"), ("default", "c2"), ("o'hara", "c1"))


@dataclass(frozen=True, slots=True)
class Stores:
    """The URLs of both databases, and what was written to them."""

    postgres: str
    clickhouse: str
    messages: Sequence[SequencedMessage]
    states: Sequence[DeliveryState]

    def run(self, *statements: str) -> None:
        """Statements of PostgreSQL, in one transaction."""
        with psycopg.connect(self.postgres) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @contextmanager
    def client(self) -> Iterator[Client]:
        client = connect(self.clickhouse)
        try:
            yield client
        finally:
            client.close()

    def command(self, *statements: str) -> None:
        """Statements of ClickHouse; a mutation ends before this returns."""
        with self.client() as client:
            for statement in statements:
                client.command(statement, settings={"mutations_sync": 2})


def history(tenant: str, conversation: str, number: int) -> tuple[SequencedMessage, list[DeliveryState]]:
    """Message `number` of a conversation, from 1, and the transitions of its delivery: one to four of them; every fifth fails."""
    name = f"{tenant}-{conversation}-{number}"
    channel = CHANNELS[number % len(CHANNELS)]
    shift: dict[str, Any] = {
        "tenant_id": tenant,
        "message_id": f"m-{name}",
        "conversation_id": conversation,
        "seq": number,
    }
    later = SHIFT_MS + number * HOUR_MS // 5
    base = sequenced(number)
    [ref] = base.deliveries
    message = replace(
        base,
        **shift,
        accepted_at=base.accepted_at + later,
        requested_at=base.requested_at + later,
        deliveries=(replace(ref, delivery_id=f"d-{name}", channel=channel),),
    )
    states = []
    for version in range(1, 2 + number % 4):
        each = state(number, version)
        moved: dict[str, Any] = {
            field: value + later
            for field in DeliveryState.__dataclass_fields__
            if field.endswith("_at") and (value := getattr(each, field)) is not None
        }
        states.append(
            replace(
                each,
                **shift,
                **moved,
                delivery_id=f"d-{name}",
                event_id=f"e-{name}-{version}",
                channel=channel,
                attempt=1 if version == 2 else 0,
                reported=each.status if version > 1 else "",
                first_dispatched_at=moved.get("dispatched_at"),
            )
        )
    if number % 5 == 0 and len(states) > 1:
        ended: dict[str, Any] = {"sent_at": None, "failed_at": states[1].occurred_at, "reason_code": "131026"}
        states[1:] = [replace(states[1], status=Status.FAILED, cause=Cause.REJECTED, reported="FAILED", **ended)]
    return message, states


def all_histories() -> tuple[list[SequencedMessage], list[DeliveryState]]:
    """Every conversation; and one delivery of a signal, which ClickHouse never gets."""
    made = [history(*conversation, number) for conversation in CONVERSATIONS for number in range(1, EACH + 1)]
    messages = [message for message, _ in made]
    states = [each for _, states in made for each in states]
    signal, typed = history("default", "c3", 1)
    [ref] = signal.deliveries
    messages.append(replace(signal, kind="typing", deliveries=(ref,)))
    return messages, [*states, *(replace(each, kind="typing") for each in typed)]


def cursors() -> list[Cursor]:
    """One cursor in each conversation, which stands at its first message or before."""
    return [
        Cursor(
            tenant_id=tenant,
            conversation_id=conversation,
            home_partition=0,
            member="15551234567",
            version=1,
            last_delivered_seq=0,
            last_read_seq=0,
            newest_seq=EACH,
            changed_at=1,
        )
        for tenant, conversation in CONVERSATIONS
    ]


@contextmanager
def seeded_stores(postgres_url: str, clickhouse_url: str) -> Iterator[Stores]:
    """Two databases with the same histories."""
    messages, states = all_histories()
    with postgres_database(postgres_url) as postgres, clickhouse_database(clickhouse_url) as clickhouse:
        stores = Stores(postgres, clickhouse, messages, states)
        stores.run(f"select create_month(date_trunc('month', to_timestamp({(T0 + SHIFT_MS) // 1000}))::date)")
        asyncio.run(_fill(stores))
        yield stores


async def _fill(stores: Stores) -> None:
    archive = PostgresArchive(stores.postgres)
    await archive.write(messages=stores.messages, states=stores.states, cursors=cursors(), offsets={})
    await archive.close()
    facts = ClickHouseFacts(stores.clickhouse)
    await facts.insert("seed", [each for each in stores.states if each.kind != "typing"])
    rows = [row for each in stores.messages for row in accepted(each)]
    await facts.insert("accepted", rows, ACCEPTED)
    await facts.close()
