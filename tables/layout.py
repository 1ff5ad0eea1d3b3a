"""How the rows of a table become changelog bytes and back.

A Layout names the table and its row class. Rows are immutable; their bytes are JSON with the field names, so that a row written
by an older version still reads (missing fields take their default, unknown ones are dropped) and an operator can read a
changelog with any Kafka tool. A table with millions of rows may bring a tighter layout of its own.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import orjson

Row = TypeVar("Row")


class Layout(Protocol[Row]):
    """Name of a table and the form of its rows; every method is pure."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int:
        """Raised when the same bytes, or the time of a row, come to mean something else: a store on disk is then rebuilt from its
        changelog, whose older rows `decode` goes on to read."""
        ...

    @property
    def packed(self) -> bool:
        """Whether a row is better kept as its bytes, even in memory: for tables of very many small rows."""
        ...

    @property
    def bucketed(self) -> bool:
        """Whether rows in memory share buckets: for tables of very many rows of some hundred bytes, each seldom read."""
        ...

    @property
    def keyed_by_record(self) -> bool:
        """Whether a row's key is the key of the records it comes from, so that the key alone tells its partition."""
        ...

    @property
    def time_of(self) -> Callable[[Row], int | None] | None:
        """Reads the Unix milliseconds a row's life counts from, None for a row that does not age. None: no row of the table does."""
        ...

    def encode(self, row: Row) -> bytes: ...

    def decode(self, value: bytes) -> Row: ...

    def as_json(self, row: Row) -> Any:
        """The row as plain data for the web views."""
        ...


@dataclass(frozen=True, slots=True)
class JsonLayout(Generic[Row]):
    """Rows are frozen dataclasses of plain values: str, int, bool, None, and tuples of them (JSON's lists come back as tuples).

    `time` names the field that a row's life counts from.
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
    """A list of JSON as it was before: a tuple, and tuples inside."""
    return tuple([frozen(v) if type(v) is list else v for v in values])
