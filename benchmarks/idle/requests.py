"""What Kafka is asked for, from its own log of requests.

Enters: the log of a Kafka that was started with `LOGGED` in its environment. Leaves: how many requests of each kind were completed.
"""

import re
from collections import Counter
from pathlib import Path

# Kafka's start command has no place for it; every Java virtual machine reads this variable.
LOGGED = {"JAVA_TOOL_OPTIONS": "-Dorg.slf4j.simpleLogger.log.kafka.request.logger=debug"}
_NAME = re.compile(rb'"requestApiKeyName":"([A-Z_]+)"')
# between Kafka's own halves, the broker and the controller
_OF_KAFKA = re.compile(rb'"clientId":"[^"]*(raft|controller|heartbeat|registration)')


class Requests:
    """Counts those that are written to the log from now on."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._begin = log.stat().st_size

    def count(self) -> Counter[str]:
        """Requests by name; those between Kafka's own halves are told apart."""
        found: Counter[str] = Counter()
        with self._log.open("rb") as lines:
            lines.seek(self._begin)
            for line in lines:
                name = _NAME.search(line)
                if name is not None:
                    found[("Kafka's own " if _OF_KAFKA.search(line) else "") + name[1].decode().lower()] += 1
        return found
