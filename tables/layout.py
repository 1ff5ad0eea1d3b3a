"""How the rows of a table become changelog bytes and back.

A Layout names the table and its row class. Rows are immutable; their bytes are JSON with the field names, so that a row written
by an older version still reads (missing fields take their default, unknown ones are dropped) and an operator can read a
changelog with any Kafka tool. A table with millions of rows may bring a tighter layout of its own.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import orjson

Row = TypeVar("Row")


class Layout(Protocol[Row]):
    """Name of a table and the form of its rows; every method is pure."""

    @property
    def name(self) -> str: ...

    def encode(self, row: Row) -> bytes: ...

    def decode(self, value: bytes) -> Row: ...

    def as_json(self, row: Row) -> Any:
        """The row as plain data for the web views."""
        ...


@dataclass(frozen=True, slots=True)
class JsonLayout(Generic[Row]):
    """Rows are frozen dataclasses of plain values: str, int, bool, None, and tuples of them (JSON's lists come back as tuples)."""

    name: str
    row: type[Row]

    def encode(self, row: Row) -> bytes:
        return orjson.dumps(row)

    def decode(self, value: bytes) -> Row:
        known = getattr(self.row, "__dataclass_fields__")  # noqa: B009  # mypy knows no dataclass behind a type variable
        return self.row(
            **{k: _frozen(v) if type(v) is list else v for k, v in orjson.loads(value).items() if k in known}
        )

    def as_json(self, row: Row) -> Any:
        return dataclasses.asdict(row)  # type: ignore[call-overload]  # rows are dataclasses; see above


def _frozen(values: list[Any]) -> tuple[Any, ...]:
    """A list of JSON as it was before: a tuple, and tuples inside."""
    return tuple([_frozen(v) if type(v) is list else v for v in values])
