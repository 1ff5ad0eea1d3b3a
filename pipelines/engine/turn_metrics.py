"""Counts a committed turn in the metrics, and logs its refusals."""

import structlog

from pipelines.engine.stage import Decision, Part
from schemas import metrics
from schemas.tracebacks import unquoted

log = structlog.get_logger(__name__)


def count_turn(stage: str, records: int, decision: Decision, seconds: float) -> None:
    """Counts a turn that took `records` from its sources; decision and commit took `seconds`. In a chain, each stage is counted by
    itself."""
    metrics.TURNS.labels(stage).inc()
    metrics.TURN_SECONDS.labels(stage).observe(seconds)
    for topic, times in decision.handed.items():
        metrics.HANDED_OVER.labels(topic).inc(times)
    for topic, times in decision.detours.items():
        metrics.THROUGH_KAFKA.labels(topic).inc(times)
    parts = decision.parts or [Part(stage, records, len(decision.outputs), decision.counts)]
    for part in parts:
        metrics.RECORDS.labels(part.stage).inc(part.records)
        metrics.OUTPUTS.labels(part.stage).inc(part.outputs)
        for name, times in part.counts.items():
            metrics.EVENTS.labels(part.stage, name).inc(times)
    for refusal in decision.refusals:
        stage = refusal.stage or stage
        metrics.DEAD_LETTERS.labels(stage, refusal.cause).inc()
        log.warning(
            "refused",
            stage=stage,
            cause=refusal.cause,
            detail=unquoted(refusal.detail),
            topic=refusal.record.topic,
            partition=refusal.record.partition,
            offset=refusal.record.offset,
        )
