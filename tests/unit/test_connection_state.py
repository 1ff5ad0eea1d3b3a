"""Steps over a connection to Kafka that may be lost: a failed step is freed at once, and nothing is opened while Kafka is unavailable."""

import asyncio
import gc
import time
import weakref
from contextlib import suppress

import pytest

from pipelines.engine.connection_state import ConnectionState
from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.serial_executor import SerialExecutor
from pipelines.engine.transactions import Fenced, Sent, Transactions, Unreachable
from pipelines.engine.writer import Writer
from schemas.kafka_access import KafkaAccess


class Client:
    """Something that a step holds, like a client of Kafka."""


def test_what_a_failed_step_held_is_gone_with_its_error() -> None:
    """Without the garbage collector: until it runs, a client would keep its threads and connections."""
    held: list[weakref.ref[Client]] = []

    def fails() -> None:
        client = Client()
        held.append(weakref.ref(client))
        raise Unreachable("no answer")

    async def tries() -> None:
        connection, executor = ConnectionState(), SerialExecutor("tries")
        for _ in range(3):
            with suppress(Unreachable):  # pytest.raises would keep the error
                await connection.answer(executor, 10.0, fails)
        executor.abandon()

    gc.disable()
    try:
        asyncio.run(tries())
        end = time.monotonic() + 5.0
        while any(client() for client in held) and time.monotonic() < end:
            time.sleep(0.01)  # the thread ends
        assert [client() for client in held] == [None, None, None]
    finally:
        gc.enable()


class Away(Transactions):
    """Transactions with a Kafka that does not answer; counts how often a producer is opened."""

    def __init__(self) -> None:
        super().__init__(
            kafka=KafkaAccess(""),
            transactional_id=lambda: "away-0",
            metadata=OffsetMetadata,
            topic="",
            held=lambda *_: {},
        )
        self.opened = 0

    def reopen(self, sent: Sent | None, seconds: float = 0.0) -> None:  # noqa: ARG002  # no outcome is asked about
        self.opened += 1
        if self.opened == 1:
            raise Unreachable("no answer")


def test_while_kafka_is_known_to_be_unavailable_nothing_is_opened() -> None:
    async def waits() -> list[int]:
        transactions, connection = Away(), ConnectionState()
        writer = Writer(transactions, SerialExecutor("waits"), connection)
        connection.lost()
        commit = asyncio.create_task(writer._reopen(None))
        counts = []
        await asyncio.sleep(0.5)
        counts.append(transactions.opened)
        connection.found()
        await commit
        counts.append(transactions.opened)
        return counts

    assert asyncio.run(waits()) == [0, 2]


def test_a_partition_that_is_given_up_waits_no_longer_than_it_may() -> None:
    async def waits() -> float:
        connection = ConnectionState()
        writer = Writer(Away(), SerialExecutor("waits"), connection)
        connection.lost()
        writer.give_up_in(0.2)
        began = time.monotonic()
        with pytest.raises(Fenced):
            await writer._reopen(None)
        return time.monotonic() - began

    assert asyncio.run(waits()) < 5.0
