"""A database of its own for one test, on the real servers; records to put into it."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from clickhouse_connect.driver.client import Client

from schemas.records import Cause, DeadLetter, DeliveryRef, DeliveryState, SequencedMessage, Status
from sinks.clickhouse import connect
from sinks.migrate import migrate_clickhouse, migrate_postgres

T0 = 1_790_000_000_000
STEPS = (Status.PENDING, Status.SENT, Status.DELIVERED, Status.READ)


@contextmanager
def postgres_database(server_url: str, *, migrated: bool = True) -> Iterator[str]:
    """The URL of a new, empty or migrated, database; dropped afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"create database {name}".encode())
        try:
            if migrated:
                with psycopg.connect(url, autocommit=True) as connection:
                    migrate_postgres(connection)
            yield url
        finally:
            server.execute(f"drop database {name} with (force)".encode())


@contextmanager
def clickhouse_database(server_url: str, *, migrated: bool = True) -> Iterator[str]:
    """The same in ClickHouse."""
    name = f"test_{secrets.token_hex(6)}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    server = connect(server_url)
    server.command(f"create database {name}")
    try:
        if migrated:
            client = connect(url)
            migrate_clickhouse(client)
            keep_old_roll_ups(client)
            client.close()
        yield url
    finally:
        server.command(f"drop database {name} sync")  # else its files stay for minutes
        server.close()


def keep_old_roll_ups(client: Client) -> None:
    """The roll-ups must not expire in a test: T0 stays, and the day of the test does not."""
    for relation in ("deliveries_by_minute", "deliveries_by_hour", "accepted_by_minute"):
        client.command(f"alter table {relation} remove ttl")


def sequenced(n: int, **changes: Any) -> SequencedMessage:
    """Message `n` of conversation c1, to one recipient."""
    values: dict[str, Any] = {
        "message_id": f"m{n}",
        "conversation_id": "c1",
        "home_partition": 0,
        "seq": n,
        "sender": "app",
        "kind": "text",
        "text": f"text {n}",
        "requested_at": T0 + n,
        "accepted_at": T0 + n + 5,
        "deliveries": (
            DeliveryRef(
                delivery_id=f"d{n}", channel="whatsapp", account="a", recipient="15551234567", address="15551234567"
            ),
        ),
    }
    return SequencedMessage(**(values | changes))


def state(n: int, version: int = 1, **changes: Any) -> DeliveryState:
    """Transition `version` of delivery `n`: PENDING, SENT after 100 ms, DELIVERED 400 ms later, READ 500 ms later."""
    accepted = T0 + n + 5
    status = STEPS[version - 1]
    values: dict[str, Any] = {
        "event_id": f"e{n}-{version}",
        "delivery_id": f"d{n}",
        "message_id": f"m{n}",
        "conversation_id": "c1",
        "home_partition": 0,
        "seq": n,
        "channel": "whatsapp",
        "account": "a",
        "recipient": "15551234567",
        "address": "15551234567",
        "version": version,
        "previous_status": STEPS[max(0, version - 2)],
        "status": status,
        "cause": (Cause.CREATED, Cause.ACCEPTED, Cause.RECEIPT, Cause.RECEIPT)[version - 1],
        "occurred_at": accepted + (0, 100, 500, 1000)[version - 1],
        "observed_at": accepted + (0, 101, 520, 1020)[version - 1],
        "requested_at": T0 + n,
        "accepted_at": accepted,
        "dispatched_at": accepted + 10 if version > 1 else None,
        "sent_at": accepted + 100 if version > 1 else None,
        "delivered_at": accepted + 500 if version > 2 else None,
        "read_at": accepted + 1000 if version > 3 else None,
        "attempts": min(version - 1, 1),
        "provider_message_id": f"wamid.{n}" if version > 1 else None,
    }
    return DeliveryState(**(values | changes))


def dead_letter(n: int, **changes: Any) -> DeadLetter:
    """Dead letter `x<n>`: a record of four bytes that stage route refused."""
    values: dict[str, Any] = {
        "dead_letter_id": f"x{n}",
        "stage": "route",
        "cause": "not_avro",
        "detail": "not Avro",
        "source_topic": "messages",
        "source_partition": 0,
        "source_offset": n,
        "source_timestamp": T0,
        "key": b"key",
        "value": b"junk",
        "refused_at": T0 + n,
    }
    return DeadLetter(**(values | changes))


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """The answer of PostgreSQL."""
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()
