"""One decision of one partition: whole, or nothing of it is left.

Enters: inputs of a turn. Leaves: the stage's decision with the rows it changed, or why the inputs have to come again: in smaller turns,
or, for one record alone that the stage cannot decide on or whose effects Kafka would not take, not at all. No I/O.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

import structlog

from pipelines.engine.kafka_sizes import KafkaSizes
from pipelines.engine.poison import Isolation, NotData, TooLarge, raised_where
from pipelines.engine.shared_changelog import prefix_of
from pipelines.engine.stage import Decision, Inputs, Stage, Tables
from pipelines.engine.transactional_producer import Rows
from tables.table import StoreFailed

S = TypeVar("S")
log = structlog.get_logger(__name__)


class Undone(Enum):
    """What becomes of inputs that were not decided on."""

    AGAIN = "they come again, in smaller turns while what raised is searched"
    SMALLER = "they come again, half as many: each may be small enough"
    POISON = "the record is to blame: it is refused with the next decision"


class Decisions(Generic[S]):
    """Of one partition. `state` is what the stage derives from the tables."""

    def __init__(
        self, *, stage: Stage[S], number: int, tables: Tables, changelogs: Mapping[str, str], sizes: KafkaSizes, poison_limit: int
    ) -> None:  # fmt: skip
        self.isolation = Isolation(stage.name, poison_limit)
        self.state = stage.open(number, tables)
        self._stage = stage
        self._number = number
        self._tables = tables
        self._changelogs = changelogs
        self._sizes = sizes

    def derive(self) -> None:
        """The state anew, from the tables."""
        self.state = self._stage.open(self._number, self._tables)

    def decide(self, inputs: Inputs, now: int) -> tuple[Decision, list[Rows]] | Undone:
        """Raises StoreFailed, and NotData when no record is to blame."""
        try:
            return self._decided(inputs, now)
        except (StoreFailed, NotData):
            raise  # no record is to blame for a disk, nor for what a chain has found out already
        except Exception as error:  # noqa: BLE001  # a bug on some record, or a record out of proportion: find it, keep the rest
            raised = error
        self._forget()
        if isinstance(raised, TooLarge) and raised.together and len(inputs.records) > 1:
            return Undone.SMALLER
        if self.isolation.at_most is None:
            log.warning(
                "decision raised", stage=self._stage.name, partition=self._number, records=len(inputs.records),
                cause=raised_where(raised),
            )  # fmt: skip
        # a record alone is to blame only if what came with it does not raise without it
        if len(inputs.records) == 1 and (cause := self._raised_by(inputs._replace(records=[]), now)) is not None:
            inputs, raised = inputs._replace(records=[]), cause
        return Undone.POISON if self.isolation.raised(inputs.records, raised) else Undone.AGAIN

    def _decided(self, inputs: Inputs, now: int) -> tuple[Decision, list[Rows]]:
        decision = self._stage.decide(inputs, self.state, now)
        rows = self._rows()
        self._sizes.check(decision, rows)
        return decision, rows

    def _rows(self) -> list[Rows]:
        """What the tables changed; as one list, with the tables' names in the keys, when they share a changelog."""
        changed = [(name, table.changes()) for name, table in self._tables.items()]
        if not self._stage.one_changelog:
            return [Rows(self._changelogs[name], self._number, changes) for name, changes in changed if changes]
        rows = [
            (prefix + key, value)
            for name, changes in changed
            for prefix in (prefix_of(name),)
            for key, value in changes
        ]
        return [Rows(next(iter(self._changelogs.values())), self._number, rows)] if rows else []

    def _raised_by(self, inputs: Inputs, now: int) -> Exception | None:
        try:
            self._decided(inputs, now)
        except (StoreFailed, NotData):
            raise
        except Exception as error:  # noqa: BLE001  # that it raises is the answer
            return error
        else:
            return None
        finally:
            self._forget()

    def _forget(self) -> None:
        for table in self._tables.values():
            table.rollback()
        self.derive()
