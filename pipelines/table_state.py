"""What a worker knows of its tables: rows, size, changelog and state of each partition; with `all`, of the partitions of all workers.

Enters: the app of a worker. Leaves: plain data. Guaranteed: a partition that cannot be described has a sentence that says why. Sizes are
estimates: the bytes of up to SAMPLED rows of a partition, times its number of rows.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import faust
from confluent_kafka import KafkaException
from yarl import URL

from pipelines.engine.faust.tables import BatchTable
from pipelines.view_answer import ask, why_absent
from tables.table import Table

SAMPLED = 32  # rows
ENDS_SECONDS = 3.0  # for Kafka to say where the changelogs end
HELD, RESTORING, ELSEWHERE, UNKNOWN = "held", "restoring", "elsewhere", "unknown"


def described(app: faust.App, table: BatchTable) -> dict[str, Any]:
    """A table: its changelog, the number of rows of the partitions here, and the owners of the others. Does not block."""
    held = table.partitions_held()
    owners = app.router.owners(table.name)
    return {
        "table": table.name,
        "changelog": app.engine.changelog(table.name),
        "rows": {str(number): len(rows) for number, rows in held.items()},
        "elsewhere": {str(number): str(url) for number, url in sorted(owners.items()) if number not in held},
    }


async def with_state(
    app: faust.App, names: list[str], headers: Mapping[str, str], *, everywhere: bool
) -> list[dict[str, Any]]:
    """The tables of these names, each with the state of its partitions: here, or everywhere. Asks Kafka, and the other workers at once."""
    ends = await _ends(app)
    found = [described(app, app.tables[name]) for name in names]
    for each in found:
        each["partitions"] = _partitions(app, app.tables[each["table"]], ends.get(each["changelog"], {}))
    if everywhere:
        _fill_in(found, await _elsewhere(app, names, headers))
    return found


def _partitions(app: faust.App, table: BatchTable, ends: Mapping[int, int]) -> list[dict[str, Any]]:
    held, owners = table.partitions_held(), app.router.owners(table.name)
    own = app.conf.canonical_url
    shown = []
    for number in range(app.conf.topic_partitions):
        owner, rows = owners.get(number), held.get(number)
        if rows is not None:
            state = {"state": HELD, "worker": str(own), "rows": len(rows), "bytes": _bytes(rows)}
            shown.append(
                {"partition": number} | state | {"changelog_offset": ends.get(number), "store_offset": rows.position}
            )
        elif owner is not None and owner != own:
            shown.append({"partition": number, "state": ELSEWHERE, "worker": str(owner)})
        else:
            state = {"state": RESTORING if app.engine.restoring is not None else UNKNOWN, "worker": str(own)}
            shown.append({"partition": number} | state | {"why": why_absent(app)})
    return shown


def _bytes(rows: Table[Any]) -> int:
    """About how many bytes the rows and their keys have in the changelog."""
    part = rows.scan(None, SAMPLED)
    pairs = [(key, row) for key in part.keys[:SAMPLED] if (row := rows.get(key)) is not None]
    whole = sum(len(key) + len(rows.layout.encode(row)) for key, row in pairs)
    return round(whole / len(pairs) * len(rows)) if pairs else 0


async def _ends(app: faust.App) -> dict[str, dict[int, int]]:
    """Changelog -> partition -> its end, for the partitions here; empty when Kafka does not answer in time."""
    engine = app.engine
    asked = [
        (changelog, number)
        for changelog in {engine.changelog(name) for name in app.tables}
        for number in engine.partitions
    ]
    try:
        ends = await asyncio.wait_for(engine.changelog_ends.of(asked), ENDS_SECONDS)
    except (KafkaException, TimeoutError):
        return {}
    found: dict[str, dict[int, int]] = {}
    for (changelog, number), end in ends.items():
        found.setdefault(changelog, {})[number] = end
    return found


async def _elsewhere(
    app: faust.App, names: list[str], headers: Mapping[str, str]
) -> dict[tuple[str, int], dict[str, Any]]:
    """(table, partition) -> what its owner says of it, or why it says nothing."""
    owners: dict[URL, set[int]] = {}
    for number, owner in app.router.owners(names[0]).items() if names else ():
        if owner != app.conf.canonical_url:
            owners.setdefault(owner, set()).add(number)
    asking = [
        ask(app, owner, owner.with_path("/tables/").with_query(state="here"), numbers, headers)
        for owner, numbers in owners.items()
    ]
    answers = await asyncio.gather(*asking)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for (owner, numbers), answer in zip(owners.items(), answers, strict=True):
        if answer.status != 200:
            unknown = {"state": UNKNOWN, "worker": str(owner), "why": str(answer.body.get("error", answer.status))}
            found |= {(name, number): {"partition": number} | unknown for name in names for number in numbers}
            continue
        for table in answer.body:
            theirs = [each for each in table.get("partitions", ()) if each["state"] in (HELD, RESTORING)]
            found |= {(table["table"], each["partition"]): each for each in theirs}
    return found


def _fill_in(tables: list[dict[str, Any]], elsewhere: Mapping[tuple[str, int], dict[str, Any]]) -> None:
    for table in tables:
        table["partitions"] = [
            elsewhere.get((table["table"], each["partition"]), each) if each["state"] == ELSEWHERE else each
            for each in table["partitions"]
        ]
