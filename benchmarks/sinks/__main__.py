"""`python -m benchmarks.sinks`: both stores: how fast they are written, how fast they answer, and the memory of the workers.

Enters: an idle machine. Leaves: benchmarks/sinks.json (unless --trial) and a table. Parts: `archive` and `analyse` beside the least that
their databases ask for, `reports` over ten million transitions, `pages` out of five million messages, `memory` of the workers at full
speed. A ratio is the median of the ratios of one run.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psycopg
from rich.console import Console

from benchmarks.sinks import page_times, report_speeds, store_rates, worker_memory
from benchmarks.sinks.bench_servers import server
from benchmarks.sinks.store_rates import Round
from schemas import benchmark
from schemas.benchmark import Figure
from sinks.clickhouse import connect
from sinks.stored_bytes import event_bytes
from tests.support.sink_databases import clickhouse_database, postgres_database

MUST_RATIO = 0.7
MUST_EVENTS = 20_000
MUST_REPORT_MS = 1000
MUST_SLA_MS = 200
MUST_PAGE_MS = 5
MUST_ERROR = 0.01
MUST_MB = 300
# As many as make a full turn of each stage.
ARCHIVE_MESSAGES = 800
ANALYSE_MESSAGES = 4000
console = Console()


def main() -> None:
    options = _options()
    figures: dict[str, Figure] = {}
    for part in options.parts:
        found = PARTS[part](options)
        console.print(benchmark.table(found))
        figures |= found
    if not options.trial:
        path = benchmark.write("sinks", " ".join(["python -m benchmarks.sinks", *sys.argv[1:]]), figures)
        console.print(f"written to {path.relative_to(Path.cwd())}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sinks", description="Benchmark of both stores.")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each stage and its peer")
    parser.add_argument("--events", type=int, default=10_000_000, help="transitions that the reports read")
    parser.add_argument("--rows", type=int, default=5_000_000, help="messages that pages are read from")
    parser.add_argument("--times", type=int, default=20, help="how often each report is asked for")
    parser.add_argument("--load", type=int, default=12_000, help="messages of the load whose memory is measured")
    parser.add_argument("--trial", action="store_true", help="do not write benchmarks/sinks.json")
    return parser.parse_args()


def _archive(options: argparse.Namespace) -> dict[str, Figure]:
    with server("postgres") as (url, _), ExitStack() as made:
        urls = {side: made.enter_context(postgres_database(url)) for side in store_rates.SIDES}
        rounds = asyncio.run(store_rates.archive(urls, options.rounds, ARCHIVE_MESSAGES))
    return _rates("archive", "psycopg's COPY of prepared rows and the same merge", rounds)


def _analyse(options: argparse.Namespace) -> dict[str, Figure]:
    with server("clickhouse") as (url, _), ExitStack() as made:
        urls = {side: made.enter_context(clickhouse_database(url)) for side in store_rates.SIDES}
        rounds = asyncio.run(store_rates.analyse(urls, options.rounds, ANALYSE_MESSAGES))
    return _rates("analyse", "clickhouse-connect inserting prepared columns", rounds)


def _rates(stage: str, peer: str, rounds: Sequence[Round]) -> dict[str, Figure]:
    of = f"median of {len(rounds)}"

    def ratio(what: str, values: Sequence[float]) -> Figure:
        found = sorted(values)
        about = f"of the events a second of {peer}, {what}, {of} rounds ({found[0]:.2f} to {found[-1]:.2f})"
        return Figure(round(median(found), 3), about, MUST_RATIO, "higher")

    return {
        f"{stage}_sink_to_peer": ratio("from decoded records on", [each.sink / each.peer for each in rounds]),
        f"{stage}_stage_to_peer": ratio("from Kafka's bytes on", [each.stage / each.peer for each in rounds]),
        f"{stage}_events_cpu": Figure(
            round(median(each.stage_cpu for each in rounds)),
            f"events a CPU second of the worker, from Kafka's bytes to the database's answer, {of}",
            MUST_EVENTS,
            "higher",
        ),
        f"{stage}_events": Figure(
            round(median(each.stage for each in rounds)), f"events/s, worker and database, {of}", MUST_EVENTS, "higher"
        ),
        f"{stage}_peer_events": Figure(
            round(median(each.peer for each in rounds)), f"events/s of the peer, {of}", None, "higher"
        ),
    }


def _reports(options: argparse.Namespace) -> dict[str, Figure]:
    with server("clickhouse") as (server_url, _), clickhouse_database(server_url) as url:
        client = connect(url)
        made = report_speeds.fill(client, options.events)
        over = f"over {made:,} transitions"
        error = report_speeds.percentile_error(client)
        figures = {
            "percentile_error": Figure(
                round(error["error"], 5),
                f"largest share that p50, p95 or p99 of the roll-up is off, {error['values']:,} values",
                MUST_ERROR,
                "lower",
            )
        }
        for name, sql in report_speeds.questions().items():
            found = report_speeds.p95(
                report_speeds.milliseconds(client, sql, options.times, may_be_empty=name in report_speeds.EMPTY)
            )
            must = MUST_SLA_MS if name == "sla" else MUST_REPORT_MS
            figures[f"report_{name}"] = Figure(round(found), f"ms, p95 of {options.times}, {over}", must)
        figures["event_bytes"] = Figure(
            round(event_bytes(client), 1), f"bytes on disk a transition, all relations together, {over}"
        )
        client.close()
    return figures


def _pages(options: argparse.Namespace) -> dict[str, Figure]:
    with (
        server("postgres") as (server_url, _),
        postgres_database(server_url) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        page_times.fill(connection, options.rows)
        # fills the caches, as those of a running server are
        page_times.milliseconds(connection, options.rows, 200, seed=2)
        found = page_times.milliseconds(connection, options.rows, 1000)
    of = f"ms for {page_times.PAGE} messages of a conversation out of {options.rows:,} rows, of {len(found)} pages"
    return {
        "history_page_p50": Figure(round(median(found), 2), of),
        "history_page_p95": Figure(round(report_speeds.p95(found), 2), of, MUST_PAGE_MS),
    }


def _memory(options: argparse.Namespace) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory(prefix="chat4all-bench-") as place:
        # under root, PostgreSQL runs as another user and must reach its programs in this folder
        Path(place).chmod(0o755)
        found = worker_memory.most_resident(Path(place), options.load)
    return {
        f"{worker}_memory": Figure(
            round(most), f"MB resident at most, {options.load:,} messages at full speed", MUST_MB, "lower"
        )
        for worker, most in sorted(found.items())
    }


PARTS: Mapping[str, Callable[[argparse.Namespace], dict[str, Figure]]] = {
    "archive": _archive,
    "analyse": _analyse,
    "reports": _reports,
    "pages": _pages,
    "memory": _memory,
}


if __name__ == "__main__":
    main()
