"""One row of a table, from the worker that has it, and the place that last changed it.

Enters: table and key. Leaves: the row as plain data. The worker that is asked asks the owner of the key's partition, or all owners if the
key does not show its partition. Guaranteed: 404 only when every worker that could have the row was asked and none has it; 503 with a
sentence while that is not certain.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import faust
from yarl import URL

from pipelines.engine.faust.tables import BatchTable
from pipelines.engine.last_change import SearchFailed
from pipelines.row_listing import row_entry
from pipelines.view_answer import ViewAnswer, ask, refused, why_absent


class RowRequest(NamedTuple):
    """A request for one row: `whole` if the caller may see texts and addresses, `headers` for a request to another worker, `with_place` to
    look for the place that last changed the row."""

    app: faust.App
    table: BatchTable
    key: str
    whole: bool
    headers: Mapping[str, str]
    with_place: bool = False


async def found_row(asked: RowRequest, only: str | None) -> ViewAnswer:
    """The row, from here or from its owner. Another worker asks with `only`: look at these partitions here, and ask no other worker."""
    app, table = asked.app, asked.table
    if only is not None:
        named = set(only.split(","))
        numbers = {number for number in range(app.conf.topic_partitions) if str(number) in named}
        if len(numbers) < len(named):
            return refused(
                400, f"partitions are numbers from 0 to {app.conf.topic_partitions - 1}, separated by commas"
            )
        return await _row_here(asked, numbers)
    home = app.router.home(table.name, asked.key)
    wanted = set(range(app.conf.topic_partitions)) if home is None else {home}
    here = wanted & table.partitions_held().keys()
    answers = [await _row_here(asked, here)] if here else []
    if wanted == here or any(answer.status == 200 for answer in answers):
        return answers[0]
    return _merged(table, asked.key, answers + await _elsewhere(asked, wanted - here))


async def _row_here(asked: RowRequest, wanted: set[int]) -> ViewAnswer:
    app, table, key = asked.app, asked.table, asked.key.encode()
    held = table.partitions_held()
    for number in sorted(wanted & held.keys()):
        row = held[number].get(key)
        if row is not None:
            found = row_entry(number, key, held[number], row, whole=asked.whole)
            body = {"table": table.name, **found, "worker": str(app.conf.canonical_url)}
            return ViewAnswer(200, body | (await _changed(asked, number) if asked.with_place else {}))
    absent = wanted - held.keys()
    if absent:
        return refused(503, f"partitions {sorted(absent)} are not here: {why_absent(app)}")
    return refused(404, f"no row {asked.key!r} in table {table.name}")


async def _changed(asked: RowRequest, number: int) -> dict[str, Any]:
    """The changelog record that the row was last written by, and the source records of that turn if this worker remembers them."""
    engine = asked.app.engine
    topic = engine.changelog(asked.table.name)
    key = engine.changelog_key(asked.table.name, asked.key.encode())
    try:
        found = await engine.changelog_search.find(topic, number, key)
    except SearchFailed as error:
        return {"changed": None, "changed_unknown": str(error)}
    if found.offset is None:
        sentence = (
            f"only the changelog's records from offset {found.searched_from} to {found.end} could be read in time"
        )
        return {"changed": None, "changed_unknown": sentence}
    partition = engine.partitions.get(number)
    taken = None if partition is None else partition.recent.taken(topic, found.offset)
    place = {"topic": topic, "partition": number, "offset": found.offset, "at": found.at}
    return {"changed": place | {"turn": None if taken is None else [each._asdict() for each in taken]}}


async def _elsewhere(asked: RowRequest, numbers: Iterable[int]) -> list[ViewAnswer]:
    """The answers of the partitions' owners; each owner is asked once."""
    app = asked.app
    owners = app.router.owners(asked.table.name)
    theirs: dict[URL, list[int]] = {}
    answers = []
    for number in sorted(numbers):
        owner = owners.get(number)
        if owner is None or owner == app.conf.canonical_url:
            answers.append(refused(503, f"partition {number}: {why_absent(app)}"))
        else:
            theirs.setdefault(owner, []).append(number)
    asking = (_ask(asked, owner, partitions) for owner, partitions in theirs.items())
    return answers + list(await asyncio.gather(*asking))


async def _ask(asked: RowRequest, owner: URL, partitions: list[int]) -> ViewAnswer:
    path = f"/tables/{quote(asked.table.name)}/{quote(asked.key, safe='')}"
    query = {"partitions": ",".join(map(str, partitions))} | ({"changed": "1"} if asked.with_place else {})
    url = owner.with_path(path, encoded=True).with_query(query)
    return await ask(asked.app, owner, url, partitions, asked.headers)


def _merged(table: BatchTable, key: str, answers: list[ViewAnswer]) -> ViewAnswer:
    """One answer of several: the row if any worker has it; 503 if a worker could not look; else 404."""
    for answer in answers:
        if answer.status == 200:
            return answer
    unsure = [str(answer.body.get("error", answer.body)) for answer in answers if answer.status != 404]
    return refused(503, "; ".join(unsure)) if unsure else refused(404, f"no row {key!r} in table {table.name}")
