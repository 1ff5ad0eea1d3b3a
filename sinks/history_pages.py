"""Pages of a long list, by the key of the last row seen (keyset), so that a page costs the same wherever it is.

Enters: a listing (SQL, filters, key), a connection of psycopg, a limit and a cursor text. Leaves: a page of rows, and the cursor texts of
the pages beside it. Guaranteed: a row that arrives meanwhile neither repeats nor hides another one. A cursor text holds only a place in one
list: it is refused with one sentence when it is damaged, of another version or of another list, and a forged one shows nothing that its
reader may not see anyway, because tenant and filters always come from the caller. All functions block, and only read.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.rows import dict_row

from sinks.storable_text import original_json

Row = Mapping[str, Any]
T = TypeVar("T")
DEFAULT_LIMIT = 50
MOST = 500
_VERSION = b"1"
_DIGEST = 12  # bytes
_LONGEST = 4_000  # characters of a cursor text; the widest key has three texts of 512 bytes
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class WrongQuestion(ValueError):
    """A question that cannot be answered as it is asked: a cursor of another list, a limit out of range, no word to look for."""


class TooSlow(Exception):
    """The answer needs more time than it may take. The text says how to ask for less."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows of a list, in its order. `after` and `before` are the cursor texts of the next and the previous page; None: there is none
    now."""

    items: tuple[T, ...]
    after: str | None
    before: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A list with an order. `select` is SQL up to and without `where`, `conditions` what holds for all its rows, both with parameters by
    name; `key` holds the columns of the order, together unique and never null; `descending` is the order of all of them. `by_index`: an
    index has the rows in this order."""

    name: str
    select: str
    key: tuple[str, ...]
    conditions: tuple[str, ...] = ()
    descending: bool = False
    by_index: bool = True


def page(
    connection: psycopg.Connection[Any],
    listing: Listing,
    values: Mapping[str, Any],
    make: Callable[[dict[str, Any]], T],
    *,
    limit: int,
    cursor: str | None,
    spans: Callable[[bool], Iterable[tuple[Any, Any]]] = lambda _: [(None, None)],
) -> Page[T]:
    """One page of a list. `values` are the parameters of its SQL. `make` gets each row, column -> value, times as Unix milliseconds.
    `spans` gives ranges [first, next) of the first key column that together are the whole list, the highest first if its argument is true:
    each is asked for on its own, until the page is full. Raises WrongQuestion for a limit outside 1..500 and for a cursor that is not of
    this list with these values."""
    if not 1 <= limit <= MOST:
        raise WrongQuestion(f"a page has 1 to {MOST} rows, not {limit}")
    question = _question(listing, values)
    backward, place = (False, ()) if cursor is None else _read(cursor, question)
    names = [column.rpartition(".")[2] for column in listing.key]
    descending = listing.descending != backward
    conditions = list(listing.conditions)
    if place:
        if len(place) != len(names):
            raise WrongQuestion(_FOREIGN)
        # The first condition follows from the second; months are left out by it.
        conditions.append(f"{listing.key[0]} {'<=' if descending else '>='} %(place_0)s")
        places = ", ".join(f"%(place_{n})s" for n in range(len(place)))
        conditions.append(f"({', '.join(listing.key)}) {'<' if descending else '>'} ({places})")
    order = ", ".join(f"{column} desc" if descending else column for column in listing.key)
    asked = {**values, **{f"place_{n}": value for n, value in enumerate(place)}}
    found: list[dict[str, Any]] = []
    with in_order(connection, by_index=listing.by_index), connection.cursor(row_factory=dict_row) as running:
        for first, following in spans(descending):
            within = (
                [] if following is None else [f"{listing.key[0]} >= %(first)s", f"{listing.key[0]} < %(following)s"]
            )
            where = " and ".join([*conditions, *within]) or "true"
            sql = f"{listing.select} where {where} order by {order} limit %(limit)s"
            asked |= {"first": first, "following": following, "limit": limit + 1 - len(found)}
            try:
                found += running.execute(sql.encode(), asked).fetchall()
            except (psycopg.errors.DataError, psycopg.errors.UndefinedFunction) as error:
                if not place:
                    raise
                raise WrongQuestion(_FOREIGN) from error  # a forged cursor with values of other types
            if len(found) > limit:
                break
    more, found = len(found) > limit, found[:limit]
    if backward:
        found.reverse()
    has_after, has_before = (bool(found), more) if backward else (more, bool(place and found))
    return Page(
        tuple(make(plain(row)) for row in found),
        _written(question, [False, *(found[-1][name] for name in names)]) if has_after else None,
        _written(question, [True, *(found[0][name] for name in names)]) if has_before else None,
    )


@contextmanager
def in_order(connection: psycopg.Connection[Any], *, by_index: bool = True) -> Iterator[None]:
    """A transaction in which the planner reads an index in its order. Else it may read a whole conversation and sort it: where it has no
    statistics of a long one, it takes it for an ordinary one. And in which it plans a repeated question once for the connection: planning
    for two dozen months takes longer than the answer."""
    if not by_index:
        yield
        return
    with connection.transaction():
        before = connection.execute(
            "select current_setting('enable_sort'), current_setting('plan_cache_mode'),"
            " set_config('enable_sort', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)"
        ).fetchone()
        yield
        settings = before[:2] if before else ("on", "auto")
        connection.execute(
            "select set_config('enable_sort', %s, true), set_config('plan_cache_mode', %s, true)", settings
        )


def bounded(connection: psycopg.Connection[Any], seconds: float, ask: Callable[[], T], advice: str) -> T:
    """Runs the queries of `ask`, each of which may take `seconds`. Raises TooSlow with `advice`, what to ask instead. The connection's own
    time limit is as before afterwards."""
    try:
        with connection.transaction():
            before = connection.execute("select current_setting('statement_timeout')").fetchone()
            limit_time(connection, seconds)
            answer = ask()
            connection.execute(_TIME_LIMIT, before)  # the caller's transaction may go on
    except psycopg.errors.QueryCanceled as error:
        raise TooSlow(f"the answer takes longer than {seconds:g} s: {advice}") from error
    return answer


def limit_time(connection: psycopg.Connection[Any], seconds: float) -> None:
    """Limits each statement of the running transaction to this time; to a millisecond if nothing is left."""
    connection.execute(_TIME_LIMIT, (f"{max(1, round(seconds * 1000))}ms",))


_TIME_LIMIT = "select set_config('statement_timeout', %s, true)"
_FOREIGN = "this cursor is not of this list: take the one that the page before gave, with the same options, or begin without a cursor"


def _question(listing: Listing, values: Mapping[str, Any]) -> bytes:
    given = sorted((name, repr(value)) for name, value in values.items())
    asked = [listing.name, listing.conditions, listing.descending, given]
    return hashlib.sha256(json.dumps(asked).encode("utf-8", "surrogatepass")).digest()


def _written(question: bytes, place: Sequence[Any]) -> str:
    """A cursor text: version, digest, and the JSON of `place`: whether it leads backward, and the key of a row."""
    values = [{"us": _microseconds(value)} if isinstance(value, datetime) else value for value in place]
    body = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return _text(_sealed(question, body) + body)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _sealed(question: bytes, body: bytes) -> bytes:
    """The version, and a digest that fits this list and this body only."""
    return _VERSION + hashlib.sha256(_VERSION + question + body).digest()[:_DIGEST]


def _read(cursor: str, question: bytes) -> tuple[bool, tuple[Any, ...]]:
    try:
        raw = base64.b64decode(cursor[:_LONGEST] + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        version, digest, body = raw[:1], raw[1 : 1 + _DIGEST], raw[1 + _DIGEST :]
        # Base64 has several forms of the same bytes; one is ours.
        if version + digest != _sealed(question, body) or _text(raw) != cursor:
            raise WrongQuestion(_FOREIGN)
        backward, *values = json.loads(body.decode("utf-8", "surrogatepass"))
        place = (_EPOCH + timedelta(microseconds=value["us"]) if isinstance(value, dict) else value for value in values)
        return bool(backward), tuple(place)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise WrongQuestion(_FOREIGN) from error


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def plain(row: Row) -> dict[str, Any]:
    """A row with its original texts, and times in Unix milliseconds."""
    return {name: value_of(value) for name, value in row.items()}


def value_of(value: Any) -> Any:
    """A value of a row: a time in Unix milliseconds, or the original text or JSON."""
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return original_json(value)


def time_of(at: int) -> datetime:
    """Unix milliseconds as a time for a query."""
    return _EPOCH + timedelta(milliseconds=at)
