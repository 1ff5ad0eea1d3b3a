"""What Kafka would not take, found before anything of a turn is sent: an output, a changelog row or all of it together.

In: a decision and the rows it changed. Out: TooLarge, one line that says which topic and how large. The limits of the topics are those
the deployment declares. Refusals are not looked at: a dead letter always fits.
"""

from collections.abc import Callable, Sequence

from pipelines.engine.poison import TooLarge
from pipelines.engine.stage import Decision, Headers
from pipelines.engine.transactional_producer import Rows

TURN_BYTES = 64 << 20  # of all outputs and rows of a turn: far below the producer's queue, and what a worker can spare


class KafkaSizes:
    """`limit` is the most bytes of key, value and headers a record of a topic may have."""

    def __init__(self, limit: Callable[[str], int]) -> None:
        self._limit = limit
        self._limits: dict[str, int] = {}

    def check(self, decision: Decision, rows: Sequence[Rows]) -> None:
        """Raises TooLarge. Every record passes here: the usual case is one list and its largest size (0.1 us a record)."""
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
