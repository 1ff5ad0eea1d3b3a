"""The layout of rows that are NamedTuples of plain values: a JSON list of the fields in their order, without their names.

It takes about half the bytes of JSON with names. A field is only ever added at the end of the class, with a default, so that the rows of an
older release can still be read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

import orjson

from tables.layout import frozen

Row = TypeVar("Row", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class ListLayout(Generic[Row]):
    """`row` is the NamedTuple; its values are str, int, bool, None, and tuples of them. `time` names the field or property that a row's
    lifetime counts from (Unix milliseconds). `encode` raises TypeError for other values, `decode` ValueError or TypeError for other
    bytes."""

    name: str
    row: type[Row]
    time: str | None = None
    version: int = 1
    packed: bool = False
    bucketed: bool = True
    keyed_by_record: bool = False

    @property
    def time_of(self) -> Callable[[Row], int | None] | None:
        return None if self.time is None else attrgetter(self.time)

    def encode(self, row: Row) -> bytes:
        return orjson.dumps(list(row), default=_listed)

    def decode(self, value: bytes) -> Row:
        return cast("Row", cast("Any", self.row)(*frozen(orjson.loads(value))))

    def as_json(self, row: Row) -> Any:
        return cast("Any", row)._asdict()


def _listed(value: Any) -> list[Any]:
    """A NamedTuple in a row, which orjson does not take for a tuple."""
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"a row cannot hold a {type(value).__name__}")
