"""Returns the typed record of a Kafka record: as the stage before handed it over, or decoded from the bytes."""

from pipelines.engine.stage import Handed, Record
from schemas import codec
from schemas.codec import R


def typed(record: Record, expected: type[R]) -> R:
    """The content of `record` as an `expected`. Raises CodecError, as codec.decode does."""
    if isinstance(record, Handed) and isinstance(record.content, expected):
        return record.content
    return codec.decode(record.value, expected)
