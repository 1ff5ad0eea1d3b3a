"""One decision of one partition: complete, or rolled back completely.

Enters: the inputs of a turn. Leaves: the stage's decision with the rows that it changed, or what has to become of the inputs: they come
again, in smaller turns, or one record is refused because the stage cannot decide on it or because Kafka would not take its effects. No I/O.
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
    """What has to become of the inputs of a decision that was rolled back."""

    AGAIN = "they come again, in smaller turns while the record at fault is searched"
    SMALLER = "they come again, half as many: each half may be small enough"
    POISON = "the record is to blame: it is refused with the next decision"


class Decisions(Generic[S]):
    """The decisions of one partition; for the event loop. `state` is what the stage derives from the tables."""

    def __init__(
        self,
        *,
        stage: Stage[S],
        number: int,
        tables: Tables,
        changelogs: Mapping[str, str],
        sizes: KafkaSizes,
        poison_limit: int,
    ) -> None:
        self.isolation = Isolation(stage.name, poison_limit)
        self.state = stage.open(number, tables)
        self._stage = stage
        self._number = number
        self._tables = tables
        self._changelogs = changelogs
        self._sizes = sizes

    def derive(self) -> None:
        """Makes the state anew from the tables. Raises what `Stage.open` raises."""
        self.state = self._stage.open(self._number, self._tables)

    def decide(self, inputs: Inputs, now: int) -> tuple[Decision, list[Rows]] | Undone:
        """Asks the stage for its decision. Raises StoreFailed, and NotData when no record is the reason or too many are."""
        try:
            return self._decided(inputs, now)
        except (StoreFailed, NotData):
            raise  # the reason is a disk, or a chain has searched already
        except Exception as error:  # noqa: BLE001  # a bug on some record, or effects that are too large: find the record
            raised = error
        self._forget()
        if isinstance(raised, TooLarge) and raised.together and len(inputs.records) > 1:
            return Undone.SMALLER
        if self.isolation.at_most is None:
            log.warning(
                "decision raised",
                stage=self._stage.name,
                partition=self._number,
                records=len(inputs.records),
                cause=raised_where(raised),
            )
        # a lone record is the reason only if the other inputs do not raise without it
        if len(inputs.records) == 1 and (cause := self._raised_by(inputs._replace(records=[]), now)) is not None:
            inputs, raised = inputs._replace(records=[]), cause
        return Undone.POISON if self.isolation.raised(inputs.records, raised) else Undone.AGAIN

    def _decided(self, inputs: Inputs, now: int) -> tuple[Decision, list[Rows]]:
        decision = self._stage.decide(inputs, self.state, now)
        rows = self._rows()
        self._sizes.check(decision, rows)
        return decision, rows

    def _rows(self) -> list[Rows]:
        """The changed rows by table; as one list, with the tables' names in the keys, when the tables share a changelog."""
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
