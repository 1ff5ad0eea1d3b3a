"""What Kafka would not take, found before anything of a turn is sent: an output, a changelog row or all of it together.

In: a decision and the rows it changed. Out: TooLarge, one line that says which topic and how large. The limits of the topics are those
the deployment declares. Refusals are not looked at: a dead letter always fits.
"""

from collections.abc import Callable, Sequence

from pipelines.engine.poison import TooLarge
from pipelines.engine.producer import Rows
from pipelines.engine.stage import Decision, Headers

TURN_BYTES = 64 << 20  # of all outputs and rows of a turn: far below the producer's queue, and what a worker can spare


class Sizes:
    """`limit` is the most bytes of key, value and headers a record of a topic may have."""

    def __init__(self, limit: Callable[[str], int]) -> None:
        self._limit = limit
        self._limits: dict[str, int] = {}

    def check(self, decision: Decision, rows: Sequence[Rows]) -> None:
        """Raises TooLarge."""
        total = 0
        for topic, key, value, _, headers in decision.outputs:
            size = len(key) + (len(value) if value else 0)
            if headers:
                size += _of_headers(headers)
            total += size
            if size > (self._limits.get(topic) or self._limit_of(topic)):
                raise TooLarge(self._sentence("an output", topic, size))
        for topic, _, changes in rows:
            limit = self._limits.get(topic) or self._limit_of(topic)
            for key, value in changes:
                size = len(key) + (len(value) if value else 0)
                total += size
                if size > limit:
                    raise TooLarge(self._sentence("a row", topic, size))
        if total > TURN_BYTES:
            raise TooLarge(f"{total} bytes of outputs and rows: a turn may make {TURN_BYTES}", together=True)

    def _limit_of(self, topic: str) -> int:
        limit = self._limits[topic] = self._limit(topic)
        return limit

    def _sentence(self, what: str, topic: str, size: int) -> str:
        return f"{what} of {size} bytes for {topic}, which takes {self._limit_of(topic)} (key, value and headers)"


def _of_headers(headers: Headers) -> int:
    return sum(len(name.encode()) + _length(value) + 8 for name, value in headers)


def _length(value: str | bytes | None) -> int:
    return 0 if not value else len(value.encode()) if isinstance(value, str) else len(value)
