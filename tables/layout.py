"""How the rows of a table become changelog bytes and back.

A Layout names the table and its row class. The usual layout, JsonLayout, writes JSON with field names. So a row of an older version can
still be read (missing fields take their default, unknown ones are dropped), and an operator can read a changelog with any Kafka tool. A
table with millions of rows may have a smaller layout of its own.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import orjson

Row = TypeVar("Row")


class Layout(Protocol[Row]):
    """Name of a table and the form of its rows.

    Every method is pure and does not block, so any thread may call it, at any time: commit, rollback and a rebalance do not concern a
    layout.
    """

    @property
    def name(self) -> str:
        """The table's name: part of its changelog's name or keys, of its folder on disk and of its URL in the web views."""
        ...

    @property
    def version(self) -> int:
        """Raise it when the same bytes, or the time of a row, get another meaning. A store on disk is then rebuilt from its changelog, so
        `decode` must still read the older rows there."""
        ...

    @property
    def packed(self) -> bool:
        """Whether a store in memory keeps each row as its bytes: for tables of very many small rows."""
        ...

    @property
    def bucketed(self) -> bool:
        """Whether a store in memory keeps rows in shared buckets: for tables of very many rows of some hundred bytes, each seldom read."""
        ...

    @property
    def keyed_by_record(self) -> bool:
        """Whether a row's key is the key of the records it comes from, so that the key alone gives its partition."""
        ...

    @property
    def time_of(self) -> Callable[[Row], int | None] | None:
        """A function that returns the time a row's lifetime counts from, in Unix milliseconds; it returns None for a row that never
        expires. The property itself is None if no row of the table expires."""
        ...

    def encode(self, row: Row) -> bytes:
        """The bytes of the row, for the changelog and for the store. Raises what its serializer raises for a value it cannot hold: a bug in
        the stage."""
        ...

    def decode(self, value: bytes) -> Row:
        """The row of bytes that `encode` of this release or an older one returned. May raise any exception for other bytes: the restore
        then fails, and the worker ends."""
        ...

    def as_json(self, row: Row) -> Any:
        """The row as plain data (dict, list, str, numbers, None) for the web views."""
        ...


@dataclass(frozen=True, slots=True)
class JsonLayout(Generic[Row]):
    """For rows that are frozen dataclasses of plain values: str, int, bool, None, and tuples of them (lists of JSON are read as tuples).

    `row` is the dataclass. `time` names the field that a row's lifetime counts from (Unix milliseconds); None: rows never expire.
    `encode` raises TypeError for other values, `decode` ValueError or TypeError for bytes that are not such a row.
    """

    packed: ClassVar[bool] = False
    name: str
    row: type[Row]
    time: str | None = None
    version: int = 1
    keyed_by_record: bool = False
    bucketed: bool = False

    @property
    def time_of(self) -> Callable[[Row], int | None] | None:
        return None if self.time is None else attrgetter(self.time)

    def encode(self, row: Row) -> bytes:
        return orjson.dumps(row)

    def decode(self, value: bytes) -> Row:
        known = getattr(self.row, "__dataclass_fields__")  # noqa: B009  # mypy knows no dataclass behind a type variable
        return self.row(
            **{k: frozen(v) if type(v) is list else v for k, v in orjson.loads(value).items() if k in known}
        )

    def as_json(self, row: Row) -> Any:
        return dataclasses.asdict(row)  # type: ignore[call-overload]  # rows are dataclasses; see above


def frozen(values: list[Any]) -> tuple[Any, ...]:
    """A list of JSON as the tuple it was made from, with tuples inside."""
    return tuple([frozen(v) if type(v) is list else v for v in values])
