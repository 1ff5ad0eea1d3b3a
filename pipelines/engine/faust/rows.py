"""Faust's view of the rows of a table: what `app.tables["sequences"]["some key"]` reads.

Enters: the partitions that this worker owns. Leaves: their rows, by text keys, as one mapping. Read only, for views and shells: a row
written outside a turn would be in no transaction. What is read may be a turn ahead of what is committed.
"""

from collections.abc import Iterator
from typing import Any, NoReturn

from faust.stores.base import SerializedStore


class RowsOfWorker(SerializedStore[str, Any]):
    """The store of a BatchTable. Rows are shown as the stage has them, whatever bytes they are kept as."""

    def _held(self) -> Any:
        return self.table.partitions_held().values()

    def _get(self, key: bytes) -> Any:
        return next((row for table in self._held() if (row := table.get(key)) is not None), None)

    def _contains(self, key: bytes) -> bool:
        return any(key in table for table in self._held())

    def _size(self) -> int:
        return sum(map(len, self._held()))

    def _iteritems(self) -> Iterator[tuple[bytes, Any]]:
        return (item for table in self._held() for item in table.items())

    def _iterkeys(self) -> Iterator[bytes]:
        return (key for key, _ in self._iteritems())

    def _itervalues(self) -> Iterator[Any]:
        return (row for _, row in self._iteritems())

    def _encode_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def _decode_key(self, key: bytes | None) -> str:
        return (key or b"").decode(errors="backslashreplace")

    def _encode_value(self, value: Any) -> Any:
        return value

    def _decode_value(self, value: Any) -> Any:
        return value

    def _refuse(self, *arguments: Any, **options: Any) -> NoReturn:  # noqa: ARG002  # whatever Faust would write
        raise TypeError(f"table {self.table_name} is written only by its stage's turns, inside their transactions")

    _set = _del = _clear = apply_changelog_batch = restore_backup = _refuse

    async def backup_partition(self, tp: Any, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Does nothing: the changelog is the backup."""

    def persisted_offset(self, tp: Any) -> None:
        """None: Faust restores nothing, the engine does."""

    def reset_state(self) -> None:
        """Does nothing: the engine owns the rows."""
