"""A refused record as a dead letter: the original bytes, key and headers, with the cause and the place."""

from pipelines.engine.stage import Output, Record, Refusal
from schemas import codec
from schemas.records import DeadLetter, Header

TOPIC = "dead-letters"


def lost_records(source: tuple[str, int], first: int, end: int) -> Refusal:
    """What Kafka deleted before it was read, from `first` up to `end`: a letter without content, so that the loss is on record."""
    record = Record(*source, first, 0, None, None, ())
    detail = f"offsets {first} to {end - 1} of {source[0]} {source[1]}: the topic's retention was shorter than this stage's standstill"
    return Refusal(record, "deleted_before_read", detail)


def dead_letter(stage: str, refusal: Refusal, now: int) -> Output:
    """The record to produce. Its id is made of the place, so a repetition of it can be told."""
    record = refusal.record
    letter = DeadLetter(
        tenant_id=refusal.tenant_id,
        dead_letter_id=f"{stage}:{record.topic}:{record.partition}:{record.offset}",
        stage=stage,
        cause=refusal.cause,
        detail=refusal.detail,
        source_topic=record.topic,
        source_partition=record.partition,
        source_offset=record.offset,
        source_timestamp=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(
            Header(key=name, value=value.encode() if isinstance(value, str) else value)
            for name, value in record.headers
        ),
        refused_at=now,
    )
    return Output(TOPIC, record.key or b"", codec.encode(letter), None)
