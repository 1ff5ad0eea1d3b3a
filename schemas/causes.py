"""Codes of dead letters: why a stage refused a record. A code is never reused for something else."""

from typing import Final

DESCRIPTIONS: Final = {
    "not_avro": "The value is not Avro in the Confluent wire format.",
    "unknown_schema": "The schema id belongs to none of our schemas.",
    "unexpected_record": "A record of ours, on a topic where it does not belong.",
    "malformed_datum": "The datum ends early, has bytes left over, or holds a value its schema does not allow.",
    "no_key": "The record has an empty or null key; the key must be the conversation id.",
    "field_out_of_limits": "A field of the record is empty or too long, or holds a character or a number it may not have.",
    "no_recipient": "The message names no recipient and its conversation is not known.",
    "unknown_channel": "A recipient names a channel we do not have.",
    "unknown_user": "A user id is in no contact.",
    "unreachable_user": "The contact has no address on the wanted channel, or refused every channel it has.",
    "content_not_supported": "The channel cannot take this content: too long, or of a kind it does not know.",
    "contradictory_content": "The kind and the content of the message do not fit together, or a part of the content makes no sense.",
    "message_too_large": "The message is larger than 1 MB, or what is made of it for its recipients larger than 16 MiB.",
    "message_id_conflict": "A message with this id was accepted before, with another content.",
    "orphan_receipt": "No delivery was found for a receipt within the waiting time.",
    "too_many_waiting": "As many receipts or updates as are kept for one delivery that is not known yet wait for it already.",
    "wrong_partition": "A record or a receipt's tracker names a home partition that does not exist or is not where it lies.",
    "attempts_exhausted": "Every attempt failed; the delivery was given up.",
    "deleted_before_read": "Kafka deleted records by age before the stage read them; the letter names their offsets.",
    "too_large_for_kafka": "What the stage makes of the record is larger than Kafka takes.",
    "crashed_stage": "The stage's worker ended on this record again and again; it was set aside: a bug, please report it with the record.",
    "decision_failed": "The stage's own code failed on this record: a bug, please report it with the record.",
}
