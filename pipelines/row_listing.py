"""The rows of a table on this worker, a page at a time, and the search for keys that begin with a prefix.

Enters: the query of a request. Leaves: rows as plain data, how many rows were searched, and the path of the next page. Guaranteed: a
request looks at no more than SEARCHED rows and takes little longer than SECONDS; every LOOK rows the worker's other work gets its turn, and
nothing holds on to a table meanwhile. A listing of a table that changes is no snapshot: a row that changes between two pages may be missing
or come twice.

A search without the full token compares the masked keys and looks at every row: otherwise somebody who may not see telephone numbers could
find them, digit by digit. The next page is a random word that this worker remembers, because a place in a table may be a key.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import faust
import orjson
from yarl import URL

from pipelines.engine.faust.tables import BatchTable
from pipelines.row_masking import masked, masked_key
from pipelines.view_answer import ViewAnswer, refused, why_absent
from tables.table import Place, Table

LIMIT = 1000  # rows of an answer
SKIP = 100_000  # rows; for more, follow `next` or read the changelog
ANSWER_BYTES = 1_000_000
LOOK = 1000  # rows looked at without a break
SEARCHED = 100_000  # rows looked at for one answer
SECONDS = 0.5
KEPT = 1000  # next pages that are remembered


class Position(NamedTuple):
    """Where a page begins: in a partition, at a part of it, behind so many of the keys found in that part."""

    number: int = -1
    place: Place | None = None
    behind: int = 0


class NextPages:
    """Random words for positions; the newest KEPT are known."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Position] = OrderedDict()

    def named(self, position: Position) -> str:
        name = secrets.token_urlsafe(9)
        self._known[name] = position
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return name

    def position(self, name: str) -> Position | None:
        return self._known.get(name)


class TableOfWorker(Protocol):
    """A table with its partitions on this worker (engine/faust/tables.py)."""

    @property
    def name(self) -> str: ...

    def partitions_held(self) -> Mapping[int, Table[Any]]: ...


@dataclass(slots=True)
class Search:
    """One page while it is made."""

    table: TableOfWorker
    prefix: str
    limit: int
    skip: int
    whole: bool
    wanted: int | None  # a single partition
    shown: list[dict[str, Any]] = field(default_factory=list)
    searched: int = 0
    size: int = 0
    absent: int | None = None  # a partition that was given up meanwhile

    async def run(self, start: Position) -> Position | None:
        """Fills `shown`; returns where the next page begins, None at the end."""
        end = time.monotonic() + SECONDS
        held = [number for number in self.table.partitions_held() if self.wanted in (None, number)]
        for number in (number for number in held if number >= start.number):
            place, behind = (start.place, start.behind) if number == start.number else (None, 0)
            while True:
                rows = self.table.partitions_held().get(number)
                if rows is None:
                    self.absent = number
                    return None
                part = rows.scan(place, LOOK, self.prefix.encode() if self.whole else b"")
                stopped = self._take(number, rows, part.keys, behind)
                self.searched += part.looked
                if stopped is not None:
                    return Position(number, place, stopped)
                place, behind = part.following, 0
                if place is None:
                    break
                if self.searched >= SEARCHED or time.monotonic() > end:
                    return Position(number, place)
                await asyncio.sleep(0)
        return None

    def _take(self, number: int, rows: Table[Any], keys: list[bytes], behind: int) -> int | None:
        """Shows the rows of a part. Returns the index of the first key that has no room on this page, None if all have."""
        for index, key in enumerate(keys):
            if index < behind or not self._is_wanted(key):
                continue
            if self.skip:
                self.skip -= 1
                continue
            if len(self.shown) == self.limit:
                return index
            row = rows.get(key)
            if row is None:
                continue  # deleted by the open turn
            entry = row_entry(number, key, rows, row, whole=self.whole)
            self.size += len(orjson.dumps(entry))
            if self.shown and self.size > ANSWER_BYTES:
                return index
            self.shown.append(entry)
        return None

    def _is_wanted(self, key: bytes) -> bool:
        return self.whole or not self.prefix or masked_key(self.table.name, _text(key)).startswith(self.prefix)


def row_entry(number: int, key: bytes, rows: Table[Any], row: Any, *, whole: bool) -> dict[str, Any]:
    """A row as plain data, masked unless `whole`."""
    shown, name = rows.layout.as_json(row), _text(key)
    if not whole:
        shown, name = masked(shown), masked_key(rows.layout.name, name)
    return {"key": name, "partition": number, "row": shown}


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")


async def listed(
    app: faust.App, pages: NextPages, described: Mapping[str, Any], query: Mapping[str, str], *, whole: bool
) -> ViewAnswer:
    """One page of the table that `described` describes."""
    table = app.tables[described["table"]]
    search = _search(table, query, whole=whole)
    if isinstance(search, ViewAnswer):
        return search
    refusal = _absent(app, described, search.wanted)
    if refusal is not None:
        return refusal
    start = pages.position(query["after"]) if "after" in query else Position()
    if start is None:
        return refused(404, f"this page is not known any more: begin again at /tables/{table.name}/")
    following = await search.run(start)
    if search.absent is not None:
        return refused(503, f"partition {search.absent} has just been given up: {why_absent(app)}")
    path = None
    if following is not None:
        further = dict(_further(search)) | {"after": pages.named(following)}
        path = str(URL(f"/tables/{table.name}/").with_query(further))
    found = {"prefix": search.prefix, "searched": search.searched} if search.prefix else {}
    return ViewAnswer(200, {**described, **found, "shown": search.shown, "next": path})


def _search(table: BatchTable, query: Mapping[str, str], *, whole: bool) -> Search | ViewAnswer:
    """What the query asks for, or the refusal of a wrong one."""
    try:
        limit, skip = int(query.get("limit", "100")), int(query.get("skip", "0"))
        wanted = int(query["partition"]) if query.get("partition") else None
    except ValueError:
        return refused(400, "limit, skip and partition are whole numbers")
    if not (1 <= limit <= LIMIT and 0 <= skip <= SKIP):
        sentence = f"limit is 1 to {LIMIT}, skip 0 to {SKIP}: to read every row, follow `next`, or read the changelog"
        return refused(400, sentence)
    return Search(table, query.get("prefix", ""), limit, skip, whole, wanted)


def _absent(app: faust.App, described: Mapping[str, Any], wanted: int | None) -> ViewAnswer | None:
    """The refusal for a partition that does not exist or is not here."""
    if wanted is None or str(wanted) in described["rows"]:
        return None
    if not 0 <= wanted < app.conf.topic_partitions:
        return refused(404, f"there are partitions 0 to {app.conf.topic_partitions - 1}")
    owner = described["elsewhere"].get(str(wanted))
    return refused(503 if owner is None else 404, f"partition {wanted} is not here: {owner or why_absent(app)}")


def _further(search: Search) -> Iterator[tuple[str, str | int]]:
    yield "limit", search.limit
    if search.wanted is not None:
        yield "partition", search.wanted
    if search.prefix:
        yield "prefix", search.prefix
