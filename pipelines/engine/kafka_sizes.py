"""Finds what is too large for Kafka before anything of a turn is sent: an output, a changelog row, or all of them together.

Enters: a decision and the rows that it changed. Leaves: TooLarge, one line with the topic and the size. The limits of the topics are those
that the deployment declares. Refusals are not checked: a dead letter always fits.
"""

from collections.abc import Callable, Sequence

from pipelines.engine.poison import TooLarge
from pipelines.engine.stage import Decision, Headers
from pipelines.engine.transactional_producer import Rows

TURN_BYTES = 64 << 20  # of all outputs and rows of a turn; far below the producer's queue


class KafkaSizes:
    """`limit` gives the most bytes of key, value and headers that a record of a topic may have. No I/O."""

    def __init__(self, limit: Callable[[str], int]) -> None:
        self._limit = limit
        self._limits: dict[str, int] = {}

    def check(self, decision: Decision, rows: Sequence[Rows]) -> None:
        """Raises TooLarge. Every record passes here, so that the usual case is one list and its maximum (0.1 us a record)."""
        outputs = decision.outputs
        sizes = [
            len(key) + len(value or b"") + (_of_headers(headers) if headers else 0)
            for _, key, value, _, headers, *_ in outputs
        ]
        if sizes and max(sizes) > min(map(self._limit_of, {output[0] for output in outputs})):
            for output, size in zip(outputs, sizes, strict=True):
                self._compare("an output", output.topic, size)
        total = sum(sizes)
        for topic, _, changes in rows:
            sizes = [len(key) + len(value or b"") for key, value in changes]
            self._compare("a row", topic, max(sizes, default=0))
            total += sum(sizes)
        if total > TURN_BYTES:
            raise TooLarge(f"{total} bytes of outputs and rows: a turn may make {TURN_BYTES}", together=True)

    def _compare(self, what: str, topic: str, size: int) -> None:
        limit = self._limit_of(topic)
        if size > limit:
            raise TooLarge(f"{what} of {size} bytes for {topic}, which takes {limit} (key, value and headers)")

    def _limit_of(self, topic: str) -> int:
        limit = self._limits.get(topic)
        if limit is None:
            limit = self._limits[topic] = self._limit(topic)
        return limit


def _of_headers(headers: Headers) -> int:
    return sum(len(name.encode()) + _length(value) + 8 for name, value in headers)


def _length(value: str | bytes | None) -> int:
    return 0 if not value else len(value.encode()) if isinstance(value, str) else len(value)
