"""The offsets that a turn commits for its sources. Pure, no I/O.

Enters: what the group holds, and what the turn has taken. Leaves: what the group has to hold after the turn. Guaranteed: an offset never
moves back, even when a sink reads records again.
"""

from collections.abc import Iterable, Mapping

from pipelines.engine.batch_queue import Batch
from pipelines.engine.stage import Refusal

Source = tuple[str, int]  # topic and partition


def after(
    committed: Mapping[Source, int],
    batches: Iterable[Batch],
    decided: Mapping[Source, int],
    deleted: Mapping[Source, tuple[int, int]],
    passed: Mapping[Source, int],
) -> dict[Source, int]:
    """What the group has to hold after a turn; empty for a turn that took nothing. `decided` are offsets that the stage chose itself,
    `deleted` are first and end of records that Kafka has deleted, `passed` is where idle sources end, after markers of transactions."""
    batches = list(batches)
    offsets = {source: end for source, (_, end) in deleted.items()}
    if not batches and not decided:
        offsets.update(passed)
    offsets.update({(r.topic, r.partition): r.offset + 1 for batch in batches for r in (batch.records[-1],)})
    offsets.update(decided)
    # a sink that reads records again must not move the group's offset back
    return {source: max(offset, committed.get(source, 0)) for source, offset in offsets.items()}


def new_refusals(refusals: list[Refusal], batches: Iterable[Batch], committed: Mapping[Source, int]) -> list[Refusal]:
    """The refusals without those of records that a sink reads again: these were committed to dead-letters before."""
    if not refusals:
        return refusals
    again = {
        (r.topic, r.partition, r.offset)
        for batch in batches
        for r in batch.records
        if r.offset < committed.get((r.topic, r.partition), 0)
    }
    return [r for r in refusals if (r.record.topic, r.record.partition, r.record.offset) not in again]
