"""Several stages as one stage of a worker: they decide one after the other in the same turn, on each other's outputs.

Enters: the turn's records and results, distributed to the stages that take them. Leaves: one decision. An output that a later stage of the
chain takes, for the same partition, is handed over as it is instead of being produced. It goes through Kafka (a detour) while the later
stage does not take its topic, or while unread records of that topic are in Kafka. Guaranteed: no record overtakes another of its topic and
partition. No I/O.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from pipelines.engine.poison import Isolation, NotData, TooLarge, raised_where
from pipelines.engine.stage import (
    Call,
    Decision,
    Handed,
    Inputs,
    Output,
    Part,
    Record,
    Refusal,
    Room,
    Source,
    Stage,
    Tables,
)
from tables.table import StoreFailed, Table

log = structlog.get_logger(__name__)
# Headers of records that the chain itself has produced to a topic that it reads. COPY: what was handed over, produced for other readers;
# the chain skips it. DETOUR: what was not handed over; its value is the mark of the partition's start.
COPY = "chat4all-copy"
DETOUR = "chat4all-detour"
NEVER_IN_KAFKA = -1  # the offset of a record that was handed over


@dataclass(slots=True)
class ChainedStage:
    """One stage of the chain in one partition, with its own state, tables and search for poison."""

    stage: Stage[Any]
    topics: frozenset[str]
    tables: Tables
    state: Any
    isolation: Isolation


@dataclass(slots=True)
class State:
    """The state of one partition of a chain."""

    partition: int
    tables: Tables
    chained: Sequence[ChainedStage]


@dataclass(slots=True)
class _Turn:
    """One decision while it is made. `handed` are records by the number of the stage that takes them."""

    inputs: Inputs
    now: int
    whole: Decision = field(default_factory=Decision)
    handed: dict[int, list[Record]] = field(default_factory=dict)
    direct: dict[str, bool] = field(default_factory=dict)  # topic -> whether its outputs are handed over in this turn


class Chain(Stage[State]):
    """`stages` in the order in which outputs are handed on; an output for an earlier stage goes through Kafka. Topics in `inner` are not
    read from Kafka: their records are always handed over. Topics in `outside` have other readers too, so that their records are also
    produced.

    The contract is that of Stage, for each stage of the chain. Sinks (`Decision.writes` or `offsets`) cannot be part of a chain. A stage
    that writes to a topic that it reads itself is not given its own outputs.
    """

    hands_over = True
    one_changelog = True

    def __init__(
        self,
        *,
        name: str,
        stages: Sequence[Stage[Any]],
        inner: frozenset[str],
        outside: frozenset[str],
        poison_limit: int,
        linger_ms: int,
        turn_records: int,
        fetch_gather_ms: int = 0,
    ) -> None:
        self.name = name
        self.stages = tuple(stages)
        self.linger_ms = linger_ms
        self.turn_records = turn_records
        self.fetch_gather_ms = fetch_gather_ms
        self._inner = inner
        self._outside = outside
        self._poison_limit = poison_limit
        sources: dict[str, Source] = {}
        for source in (source for stage in stages for source in stage.sources if source.topic not in inner):
            before = sources.get(source.topic, source)
            sources[source.topic] = replace(
                source, first=source.first or before.first, compacted=source.compacted and before.compacted
            )
        self.sources = tuple(sources.values())
        self.tables = tuple(layout for stage in stages for layout in stage.tables)  # type: ignore[misc]  # of the class, for a stage alone
        self.most_calls = max(stage.most_calls for stage in stages)
        self.mirrored = tuple({each.topic: each for stage in stages for each in stage.mirrored}.values())
        self._takers: Mapping[str, tuple[int, ...]] = {
            topic: tuple(
                number for number, stage in enumerate(stages) if any(source.topic == topic for source in stage.sources)
            )
            for topic in (*sources, *inner)
        }

    # --- called by the engine -------------------------------------------------------------------------------------------

    def open(self, partition: int, tables: Tables) -> State:
        return State(partition, tables, [self._opened(stage, partition, tables) for stage in self.stages])

    def _opened(self, stage: Stage[Any], partition: int, tables: Tables) -> ChainedStage:
        own: dict[str, Table[Any]] = {layout.name: tables[layout.name] for layout in stage.tables}
        topics = frozenset(source.topic for source in stage.sources)
        return ChainedStage(stage, topics, own, stage.open(partition, own), Isolation(stage.name, self._poison_limit))

    def next_due(self, state: State) -> int | None:
        dues = (each.stage.next_due(each.state) for each in state.chained)
        return min((due for due in dues if due is not None), default=None)

    def takes(self, topic: str, state: State) -> bool:
        return all(
            each.stage.takes(topic, each.state) for each in (state.chained[n] for n in self._takers.get(topic, ()))
        )

    def wants_calls(self, state: State, room: Room) -> bool:
        return any(each.stage.wants_calls(each.state, room) for each in state.chained)

    def is_done(self, state: State) -> bool:
        return all(each.stage.is_done(each.state) for each in state.chained)

    async def perform(self, call: Call) -> Any:
        number, own = call.request
        return await self.stages[number].perform(own)

    async def start(self) -> None:
        for stage in self.stages:
            await stage.start()

    async def stop(self) -> None:
        for stage in self.stages:
            await stage.stop()

    # --- one turn -------------------------------------------------------------------------------------------------------

    def decide(self, inputs: Inputs, state: State, now: int) -> Decision:
        turn = _Turn(inputs, now)
        for record in inputs.records:
            self._distribute(record, turn)
        for number, each in enumerate(state.chained):
            own = inputs._replace(
                records=turn.handed.get(number, []),
                results=[
                    result._replace(call=result.call.request[1])
                    for result in inputs.results
                    if result.call.request[0] == number
                ],
            )
            if not (own.records or own.results or _is_due(each, inputs, now)):
                continue
            part = _decided(each, own, now, state.partition)
            self._take_part(number, part, len(own.records), state, turn)
        return turn.whole

    def _distribute(self, record: Record, turn: _Turn) -> None:
        """Gives a record from Kafka to every stage that takes its topic. A copy is skipped: it was handed over when it was produced."""
        for name, value in record.headers:
            if name == COPY:
                turn.whole.copies += 1
                return
            if name == DETOUR and value == turn.inputs.reading.mark:
                turn.whole.returned[record.topic] += 1
        for number in self._takers[record.topic]:
            turn.handed.setdefault(number, []).append(record)

    def _take_part(self, number: int, part: Decision, records: int, state: State, turn: _Turn) -> None:
        """Adds the decision of one stage to the whole decision, and hands its outputs on."""
        if part.writes is not None or part.offsets:
            raise NotData(f"stage {self.stages[number].name} is a sink: it cannot be part of chain {self.name}")
        stage = self.stages[number].name
        whole = turn.whole
        whole.parts.append(Part(stage, records, len(part.outputs), part.counts))
        whole.refusals += [refusal._replace(stage=stage) for refusal in part.refusals]
        whole.calls += [Call(call.key, (number, call), call.end_of, call.shares) for call in part.calls]
        for output in part.outputs:
            takers = (
                [taker for taker in self._takers.get(output.topic, ()) if taker > number]
                if output.partition == state.partition
                else []
            )
            if not takers:
                whole.outputs.append(output)
            elif self._is_handed(output.topic, takers, state, turn):
                self._hand_over(output, stage, takers, state, turn)
            else:
                mark = (DETOUR, turn.inputs.reading.mark)
                whole.outputs.append(output._replace(headers=(*output.headers, mark)))
                whole.detours[output.topic] += 1

    def _is_handed(self, topic: str, takers: Sequence[int], state: State, turn: _Turn) -> bool:
        """Whether outputs of the topic are handed over in this turn; the same for all of them, so that none overtakes another."""
        is_direct = turn.direct.get(topic)
        if is_direct is None:
            is_direct = topic in self._inner or (
                topic not in turn.inputs.reading.behind
                and all(state.chained[n].stage.takes(topic, state.chained[n].state) for n in takers)
            )
            turn.direct[topic] = is_direct
        return is_direct

    def _hand_over(self, output: Output, stage: str, takers: Sequence[int], state: State, turn: _Turn) -> None:
        record = Handed(
            output.topic, state.partition, NEVER_IN_KAFKA, turn.now, output.key, output.value, output.headers
        )
        record.content = output.content
        record.origin = f"handed over by {stage}" + (f" from {output.origin}" if output.origin else "")
        for taker in takers:
            turn.handed.setdefault(taker, []).append(record)
        turn.whole.handed[output.topic] += 1
        if output.topic in self._outside:
            is_read = output.topic not in self._inner
            copy = output._replace(headers=(*output.headers, (COPY, b"1"))) if is_read else output
            turn.whole.outputs.append(copy)


def _is_due(chained: ChainedStage, inputs: Inputs, now: int) -> bool:
    if chained.stage.wants_calls(chained.state, inputs.room):
        return True
    due = chained.stage.next_due(chained.state)
    return due is not None and due <= now


def _decided(chained: ChainedStage, inputs: Inputs, now: int, partition: int) -> Decision:
    """The stage's decision on all records but those that it cannot decide on; these are refused one by one. Raises NotData when no record
    is the reason, or too many are."""
    try:
        decision = chained.stage.decide(inputs, chained.state, now)
    except (StoreFailed, TooLarge):
        raise  # the whole turn is concerned
    except Exception as error:  # noqa: BLE001  # a bug on some record: find the record
        return _without_poison(chained, inputs, now, partition, error)
    chained.isolation.decided(len(inputs.records))
    return decision


def _without_poison(chained: ChainedStage, inputs: Inputs, now: int, partition: int, error: Exception) -> Decision:
    """Finds the records that raise by halving, one after the other, on the state with which the turn began."""
    log.warning(
        "decision raised",
        stage=chained.stage.name,
        partition=partition,
        records=len(inputs.records),
        cause=raised_where(error),
    )
    records = list(inputs.records)
    refusals: list[Refusal] = []
    good = 0  # so many of the first records are known not to raise

    def attempt(until: int) -> Decision | Exception:
        """The decision on the first `until` records, or the error that it raised."""
        for table in chained.tables.values():
            table.rollback()
        chained.state = chained.stage.open(partition, chained.tables)
        try:
            return chained.stage.decide(inputs._replace(records=records[:until]), chained.state, now)
        except (StoreFailed, TooLarge):
            raise
        except Exception as raised:  # noqa: BLE001  # that it raises is the answer
            return raised

    while isinstance(outcome := attempt(len(records)), Exception):
        low, high, raised = good, len(records), outcome
        if isinstance(bare := attempt(low), Exception):
            chained.isolation.raised([], bare)  # raises NotData: the records before did not raise, and now they do
        while high - low > 1:
            middle = (low + high) // 2
            found = attempt(middle)
            if isinstance(found, Exception):
                high, raised = middle, found
            else:
                low = middle
        refusals += chained.isolation.decided(low - good)
        chained.isolation.raised([records[low]], raised)
        good = low
        del records[low]
    refusals += chained.isolation.decided(len(records) - good)
    outcome.refusals += [_with_origin(refusal) for refusal in refusals]
    return outcome


def _with_origin(refusal: Refusal) -> Refusal:
    record = refusal.record
    if not isinstance(record, Handed):
        return refusal
    return refusal._replace(detail=f"{refusal.detail}; {record.origin}")
