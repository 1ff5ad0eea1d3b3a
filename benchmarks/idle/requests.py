"""Requests to Kafka, from Kafka's own request log.

Enters: the log of a Kafka that was started with `LOGGED` in its environment. Leaves: the number of completed requests of each kind.
"""

import re
from collections import Counter
from pathlib import Path

# Kafka's start command has no option for it; every JVM reads this variable.
LOGGED = {"JAVA_TOOL_OPTIONS": "-Dorg.slf4j.simpleLogger.log.kafka.request.logger=debug"}
_NAME = re.compile(rb'"requestApiKeyName":"([A-Z_]+)"')
# requests between the broker and the controller, both in one process
_OF_KAFKA = re.compile(rb'"clientId":"[^"]*(raft|controller|heartbeat|registration)')


class Requests:
    """Counts the requests that are logged after it was made."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._begin = log.stat().st_size

    def count(self) -> Counter[str]:
        """Requests by name; those between broker and controller have a name of their own."""
        found: Counter[str] = Counter()
        with self._log.open("rb") as lines:
            lines.seek(self._begin)
            for line in lines:
                name = _NAME.search(line)
                if name is not None:
                    found[("Kafka's own " if _OF_KAFKA.search(line) else "") + name[1].decode().lower()] += 1
        return found
