"""Views of the tables, on every worker: /tables/, /tables/<table>/?partition=&limit=&skip=, /tables/<table>/<key>.

In: HTTP requests. Out: rows as JSON. Any worker answers for any row: it asks the worker that owns the key's partition, or all workers if
the key does not show its partition. A listing shows the rows of this worker only, in pages, and names the owners of the other
partitions. Guaranteed: while an answer is not certain (a restore, a rebalance, a crashed worker), the status is 503 with a sentence, never
a false "no row". Texts and addresses are masked unless the caller may see them (view_access.py); another worker is asked with a token of
the same rights.
"""

import asyncio
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import faust
import orjson
from yarl import URL

from pipelines.engine.faust.tables import BatchTable
from pipelines.row_masking import masked, masked_id
from pipelines.view_access import CALLER, Access, sees_all

LIMIT = 1000  # rows of an answer
SKIP = 100_000  # rows; for more, read the changelog
ANSWER_BYTES = 1_000_000
ASK_SECONDS = 5.0  # time-out of a request to another worker
RETRY_AFTER = {"Retry-After": "2"}  # seconds


class ViewAnswer(NamedTuple):
    status: int
    body: dict[str, Any]


class RowRequest(NamedTuple):
    """A request for one row: `whole` if the caller may see texts and addresses, `headers` for a request to another worker."""

    app: faust.App
    table: BatchTable
    key: str
    whole: bool
    headers: Mapping[str, str]


def add_table_views(app: faust.App, access: Access) -> None:
    """Adds the views to a worker's app. Handlers run on the worker's event loop; a large listing occupies it for a page at most."""

    @app.page("/tables/")
    async def tables(view: Any, request: Any) -> Any:  # noqa: ARG001  # Faust's signature
        return view.json([_described(app, table) for table in app.tables.values()])

    @app.page("/tables/{table}/")
    async def rows(view: Any, request: Any, table: str) -> Any:
        return _shown(view, _unknown(app, table) or _listing(app, app.tables[table], request))

    @app.page("/tables/{table}/{key:.+}")
    async def row(view: Any, request: Any, table: str, key: str) -> Any:
        wanted = RowRequest(app, app.tables.get(table), key, sees_all(request), access.headers(request[CALLER]))
        return _shown(view, _unknown(app, table) or await _row(wanted, request.query.get("partitions")))


def _shown(view: Any, answer: ViewAnswer) -> Any:
    return view.json(answer.body, status=answer.status, headers=RETRY_AFTER if answer.status == 503 else None)


def _described(app: faust.App, table: BatchTable) -> dict[str, Any]:
    """A table: its changelog, the number of rows of the partitions here, and the owners of the others."""
    held = table.partitions_held()
    owners = app.router.owners(table.name)
    return {
        "table": table.name,
        "changelog": app.engine.changelog(table.name),
        "rows": {str(number): len(rows) for number, rows in held.items()},
        "elsewhere": {str(number): str(url) for number, url in sorted(owners.items()) if number not in held},
    }


def _unknown(app: faust.App, table: str) -> ViewAnswer | None:
    if table in app.tables:
        return None
    return _error(404, f"no table {table!r} here: this worker has {sorted(app.tables)}")


def _error(status: int, sentence: str) -> ViewAnswer:
    return ViewAnswer(status, {"error": sentence})


# --- a listing ----------------------------------------------------------------------------------------------------------------


def _listing(app: faust.App, table: BatchTable, request: Any) -> ViewAnswer:
    query: Mapping[str, str] = request.query
    try:
        limit, skip = int(query.get("limit", "100")), int(query.get("skip", "0"))
        wanted = int(query["partition"]) if "partition" in query else None
    except ValueError:
        return _error(400, "limit, skip and partition are whole numbers")
    if not (1 <= limit <= LIMIT and 0 <= skip <= SKIP):
        return _error(400, f"limit is 1 to {LIMIT}, skip 0 to {SKIP}: to read every row, read the changelog")
    if wanted is not None and not 0 <= wanted < app.conf.topic_partitions:
        return _error(404, f"there are partitions 0 to {app.conf.topic_partitions - 1}")
    described = _described(app, table)
    held = {number: rows for number, rows in table.partitions_held().items() if wanted in (None, number)}
    if wanted is not None and not held:
        owner = described["elsewhere"].get(str(wanted))
        return _error(503 if owner is None else 404, f"partition {wanted} is not here: {owner or _why(app)}")
    shown = _page(held, skip, limit, whole=sees_all(request))
    more = skip + len(shown) < sum(map(len, held.values()))
    further = {} if wanted is None else {"partition": wanted}
    path = URL(f"/tables/{table.name}/").with_query(further | {"limit": limit, "skip": skip + len(shown)})
    return ViewAnswer(200, described | {"shown": shown, "next": str(path) if more else None})


def _page(held: Mapping[int, Any], skip: int, limit: int, *, whole: bool) -> list[dict[str, Any]]:
    """The rows after the first `skip`: at least one, at most `limit`, and up to ANSWER_BYTES."""
    shown: list[dict[str, Any]] = []
    size = 0
    for number, rows in held.items():
        if skip >= len(rows):
            skip -= len(rows)
            continue
        for key, row in islice(rows.items(), skip, None):
            entry = _entry(number, key, rows, row, whole=whole)
            size += len(orjson.dumps(entry))
            if len(shown) == limit or (shown and size > ANSWER_BYTES):
                return shown
            shown.append(entry)
        skip = 0
    return shown


def _entry(number: int, key: bytes, rows: Any, row: Any, *, whole: bool) -> dict[str, Any]:
    shown, name = rows.layout.as_json(row), key.decode(errors="backslashreplace")
    if not whole:
        shown, name = masked(shown), masked_id(name)
    return {"key": name, "partition": number, "row": shown}


# --- one row ------------------------------------------------------------------------------------------------------------------


async def _row(asked: RowRequest, only: str | None) -> ViewAnswer:
    """The row, from here or from its owner. Another worker asks with `only`: look at these partitions here, and ask no other worker."""
    app, table = asked.app, asked.table
    if only is not None:
        named = set(only.split(","))
        numbers = {number for number in range(app.conf.topic_partitions) if str(number) in named}
        if len(numbers) < len(named):
            return _error(400, f"partitions are numbers from 0 to {app.conf.topic_partitions - 1}, separated by commas")
        return _row_here(asked, numbers)
    home = app.router.home(table.name, asked.key)
    wanted = set(range(app.conf.topic_partitions)) if home is None else {home}
    here = wanted & table.partitions_held().keys()
    answers = [_row_here(asked, here)] if here else []
    if wanted == here or any(answer.status == 200 for answer in answers):
        return answers[0]
    return _merged(table, asked.key, answers + await _elsewhere(asked, wanted - here))


def _row_here(asked: RowRequest, wanted: set[int]) -> ViewAnswer:
    app, table, key = asked.app, asked.table, asked.key.encode()
    held = table.partitions_held()
    for number in sorted(wanted & held.keys()):
        row = held[number].get(key)
        if row is not None:
            found = _entry(number, key, held[number], row, whole=asked.whole)
            return ViewAnswer(200, {"table": table.name, **found, "worker": str(app.conf.canonical_url)})
    absent = wanted - held.keys()
    if absent:
        return _error(503, f"partitions {sorted(absent)} are not here: {_why(app)}")
    return _error(404, f"no row {asked.key!r} in table {table.name}")


async def _elsewhere(asked: RowRequest, numbers: Iterable[int]) -> list[ViewAnswer]:
    """The answers of the partitions' owners; each owner is asked once."""
    app = asked.app
    owners = app.router.owners(asked.table.name)
    theirs: dict[URL, list[int]] = {}
    answers = []
    for number in sorted(numbers):
        owner = owners.get(number)
        if owner is None or owner == app.conf.canonical_url:
            answers.append(_error(503, f"partition {number}: {_why(app)}"))
        else:
            theirs.setdefault(owner, []).append(number)
    asking = (_ask(asked, owner, partitions) for owner, partitions in theirs.items())
    return answers + list(await asyncio.gather(*asking))


async def _ask(asked: RowRequest, owner: URL, partitions: list[int]) -> ViewAnswer:
    app = asked.app
    path = f"/tables/{quote(asked.table.name)}/{quote(asked.key)}"
    url = owner.with_path(path, encoded=True).with_query(partitions=",".join(map(str, partitions)))
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    try:
        async with app.http_client.get(url, headers=asked.headers, timeout=timeout) as response:
            answer = ViewAnswer(response.status, orjson.loads(await response.read()))
    except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
        return _error(
            503,
            f"{owner} owns partitions {partitions} and does not answer ({type(error).__name__}): if it has crashed, others take them over "
            f"after the session time-out of {app.conf.broker_session_timeout:.0f} s",
        )
    if answer.status in (401, 403):
        return _error(
            503, f"{owner} owns partitions {partitions} and refuses this worker: {answer.body.get('error', '')}"
        )
    return answer


def _merged(table: BatchTable, key: str, answers: list[ViewAnswer]) -> ViewAnswer:
    """One answer of several: the row if any worker has it; 503 if a worker could not look; else 404."""
    for answer in answers:
        if answer.status == 200:
            return answer
    unsure = [str(answer.body.get("error", answer.body)) for answer in answers if answer.status != 404]
    return _error(503, "; ".join(unsure)) if unsure else _error(404, f"no row {key!r} in table {table.name}")


def _why(app: faust.App) -> str:
    """Why a partition is neither here nor known to be elsewhere."""
    progress = app.engine.restoring
    if progress is not None:
        shown = progress.shown()
        return f"this worker is restoring, {shown['rows']} rows so far, {shown['seconds_left']} s left: ask again after that"
    return "the group's partitions are being assigned: ask again in a moment"
