"""What one write for all partitions saves: `python -m benchmarks.sinks.one_write [--rounds 20] [--rows 30] [--partitions 12]`.

In each round every partition has `--rows` new transitions of deliveries. They are written with one transaction (or insert) for each
partition, and with one for all. PostgreSQL and ClickHouse are started for the benchmark and deleted after it. Prints for both: rows a
second, and the CPU of a round and of a row, of the database's processes and of this process, the client.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import psutil

from benchmarks.sinks.servers import cpu, server
from schemas.records import DeliveryState
from sinks.clickhouse import ClickHouseFacts
from sinks.postgres import PostgresArchive
from tests.support.sink_databases import clickhouse_database, postgres_database, state

Round = list[list[DeliveryState]]  # the rows of each partition
WriteRound = Callable[[Round], Awaitable[None]]


async def measure(
    name: str, write_round: WriteRound, given: argparse.Namespace, process: psutil.Process, first: int
) -> None:
    """Prints one line of figures. `first` is the number of the first round, so that no row is written twice."""
    rounds: list[Round] = []
    for number in range(first, first + given.rounds + 1):
        start = number * given.partitions * given.rows
        rounds.append([[state(start + p * given.rows + n) for n in range(given.rows)] for p in range(given.partitions)])
    await write_round(rounds.pop(0))  # opens the connections that the others use
    began, server_before, client_before = time.perf_counter(), cpu(process), time.process_time()
    for each in rounds:
        await write_round(each)
    seconds = time.perf_counter() - began
    on_server, on_client = cpu(process) - server_before, time.process_time() - client_before
    rows = given.rounds * given.partitions * given.rows
    print(
        f"{name:<42} {rows / seconds:>8,.0f} rows/s {on_server / given.rounds * 1000:>8.1f} + {on_client / given.rounds * 1000:.1f} "
        f"ms of CPU a round {(on_server + on_client) / rows * 1e6:>8.0f} us a row",
        flush=True,
    )


async def postgres(given: argparse.Namespace) -> None:
    with server("postgres") as (server_url, process), postgres_database(server_url) as url:
        archive = PostgresArchive(url)
        await archive.open()
        at = await archive.positions([("delivery-states", number) for number in range(given.partitions)])

        async def write(numbers: list[int], each: Round) -> None:
            spans = {
                source: (at[source], at[source] + given.rows) for n in numbers for source in [("delivery-states", n)]
            }
            await archive.write(messages=[], states=[row for n in numbers for row in each[n]], offsets=spans)
            at.update({source: end for source, (_, end) in spans.items()})

        async def apart(each: Round) -> None:
            for number in range(given.partitions):
                await write([number], each)

        async def together(each: Round) -> None:
            await write(list(range(given.partitions)), each)

        await measure("PostgreSQL, a transaction a partition", apart, given, process, 0)
        await measure("PostgreSQL, one transaction", together, given, process, given.rounds + 1)
        await archive.close()


async def clickhouse(given: argparse.Namespace) -> None:
    with server("clickhouse") as (server_url, process), clickhouse_database(server_url) as url:
        facts = ClickHouseFacts(url)
        await facts.open()

        async def apart(each: Round) -> None:
            for rows in each:
                await facts.insert(rows[0].event_id, rows)

        async def together(each: Round) -> None:
            await facts.insert(each[0][0].event_id, [row for rows in each for row in rows])

        await measure("ClickHouse, an insert a partition", apart, given, process, 0)
        await measure("ClickHouse, one insert of as many rows", together, given, process, given.rounds + 1)
        await facts.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--partitions", type=int, default=12)
    given = parser.parse_args()
    asyncio.run(postgres(given))
    asyncio.run(clickhouse(given))


if __name__ == "__main__":
    main()
