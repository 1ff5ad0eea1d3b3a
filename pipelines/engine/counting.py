"""What a committed turn leaves in the metrics and in the log."""

import structlog

from pipelines.engine.stage import Decision
from schemas import metrics

log = structlog.get_logger(__name__)


def count_turn(stage: str, records: int, decision: Decision, seconds: float) -> None:
    """`records` were taken from sources; decision and commit took `seconds`."""
    metrics.TURNS.labels(stage).inc()
    metrics.TURN_SECONDS.labels(stage).observe(seconds)
    metrics.RECORDS.labels(stage).inc(records)
    metrics.OUTPUTS.labels(stage).inc(len(decision.outputs))
    for refusal in decision.refusals:
        metrics.DEAD_LETTERS.labels(stage, refusal.cause).inc()
        log.warning(
            "refused", stage=stage, cause=refusal.cause, detail=refusal.detail, topic=refusal.record.topic,
            partition=refusal.record.partition, offset=refusal.record.offset,
        )  # fmt: skip
    for name, times in decision.counts.items():
        metrics.EVENTS.labels(stage, name).inc(times)
