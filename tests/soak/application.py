"""An application that produces to `messages` in transactions during the load: committed ones, aborted ones, and one that stays open.

In: a phase. Out: records in Kafka; a log of the committed messages, like the loader's (loadgen/load_producer.py); the ids of the aborted
messages. It has its own tenant and conversations. It uses two producers: short transactions continue while the long one is open.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as KafkaMessage

from schemas import codec
from schemas.kafka_access import KafkaAccess
from schemas.keys import key_of
from schemas.records import Message, Recipient
from tests.soak.soak_scenario import OPEN_UNTIL, SHORT_UNTIL, Kind, Phase

TENANT = "soak"
BETWEEN_SECONDS = 2.0  # short transactions
EACH = 3  # messages of a transaction
LONG = 0  # conversation of the long transactions
CONVERSATIONS = 8  # of the short ones, from 1
_TIMEOUT_MS = 600_000  # of a transaction: much longer than a phase, and below the broker's limit of 15 minutes


class Application:
    """`act` blocks for most of a phase; one phase at a time."""

    def __init__(self, kafka: KafkaAccess, run: str, log: Path) -> None:
        self.committed = 0
        self.aborted: list[str] = []
        self._run = run
        self._log = log
        self._produced = 0
        self._short, self._long = (_Transactions(kafka, f"{run}-{name}") for name in ("short", "long"))

    def act(self, phase: Phase, check: Callable[[], None]) -> None:
        """Does its part of a phase. Calls `check` while only the long transaction is open, some time after the last short one."""
        began = time.monotonic()
        self._long.begin([self._message(phase, LONG) for _ in range(EACH)])
        commits = phase.kind != Kind.IDLE  # an idle phase has no messages: aborted ones do not count
        while time.monotonic() < began + SHORT_UNTIL * phase.seconds:
            self._short.begin([self._message(phase, 1 + self._produced % CONVERSATIONS) for _ in range(EACH)])
            self._end(self._short, commits=commits and self._produced // EACH % 2 == 0)
            time.sleep(BETWEEN_SECONDS)
        time.sleep(max(0.0, began + OPEN_UNTIL * phase.seconds - time.monotonic()))
        check()
        self._end(self._long, commits=phase.long_one_commits)

    def _end(self, transactions: "_Transactions", *, commits: bool) -> None:
        lines = transactions.end(commits=commits)
        if not commits:
            self.aborted += [line["message_id"] for line in lines]
            return
        self.committed += len(lines)
        with self._log.open("a", encoding="utf-8") as log:
            log.writelines(json.dumps(line) + "\n" for line in lines)

    def _message(self, phase: Phase, conversation: int) -> Message:
        self._produced += 1
        message_id = f"{self._run}p{phase.number}-t{self._produced}"
        conversation_id = f"{self._run}-t{conversation}"
        return Message(
            tenant_id=TENANT,
            message_id=message_id,
            conversation_id=conversation_id,
            recipients=(Recipient(channel="whatsapp", address=f"1555777{conversation:04d}"),),
            text=f"[{conversation_id}/{message_id}] in a transaction",
            requested_at=int(time.time() * 1000),
        )


class _Transactions:
    """One transactional producer, one transaction at a time."""

    def __init__(self, kafka: KafkaAccess, name: str) -> None:
        self._producer = Producer(
            {
                **kafka.settings("soak"),
                "transactional.id": name,
                "transaction.timeout.ms": _TIMEOUT_MS,
                "partitioner": "murmur2_random",
            }
        )
        self._producer.init_transactions(30)
        self._open: list[dict[str, Any]] = []

    def begin(self, messages: list[Message]) -> None:
        """Begins a transaction. When this returns, its records are in Kafka, neither committed nor aborted."""
        self._open = []
        self._producer.begin_transaction()
        for message in messages:

            def acknowledged(error: KafkaError | None, kept: KafkaMessage, message: Message = message) -> None:
                if error is None:
                    self._open.append(_line(message, kept))

            self._producer.produce("messages", codec.encode(message), key_of(message), on_delivery=acknowledged)
        self._producer.flush(30)
        if len(self._open) < len(messages):
            raise RuntimeError(f"Kafka acknowledged {len(self._open)} of {len(messages)} messages of a transaction")

    def end(self, *, commits: bool) -> list[dict[str, Any]]:
        """Ends the transaction, and returns a log line for each of its messages."""
        if commits:
            self._producer.commit_transaction(30)
        else:
            self._producer.abort_transaction(30)
        now = int(time.time() * 1000)  # no consumer could read it before
        return [line | {"at": now} for line in self._open]


def _line(message: Message, kept: KafkaMessage) -> dict[str, Any]:
    return {
        "message_id": message.message_id,
        "conversation_id": message.conversation_id,
        "partition": kept.partition(),
        "offset": kept.offset(),
        "duplicate": False,
        "recipients": [(each.channel, each.address) for each in message.recipients],
    }
