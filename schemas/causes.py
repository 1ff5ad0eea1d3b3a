"""Codes of dead letters: why a stage refused a record. A code is never reused for something else."""

from typing import Final

DESCRIPTIONS: Final = {
    "not_avro": "The value is not Avro in the Confluent wire format.",
    "unknown_schema": "The schema id belongs to none of our schemas.",
    "unexpected_record": "A record of ours, on a topic where it does not belong.",
    "malformed_datum": "The datum ends early, has bytes left over, or holds a value its schema does not allow.",
    "no_key": "The record has an empty or null key; the key must be the conversation's.",
    "wrong_key": "The record of a compacted topic has another key than its own content's.",
    "inbound_not_allowed": "The message's direction does not belong on its topic: INBOUND ones come from the gateway alone, on `inbound`.",
    "invalid_message": "A field of the message is missing, empty or too long.",
    "account_not_yours": "A recipient's account, or the only one there is on the channel, belongs to another tenant or to nobody.",
    "no_recipient": "The message names no recipient and its conversation is not known.",
    "unknown_channel": "A recipient names a channel we do not have.",
    "unknown_user": "A user id is in no contact.",
    "unreachable_user": "The contact has no address on the wanted channel, or refused every channel it has.",
    "content_not_supported": "The channel cannot take this content: too long, or of a kind it does not know.",
    "contradictory_content": "The kind and the content of the message do not fit together, or a part of the content makes no sense.",
    "invalid_time": "A time of the message is in another unit than milliseconds, too far ahead, or its end is before its begin.",
    "message_too_large": "The record is larger than 1 MB.",
    "message_id_conflict": "A message with this id was accepted before in this conversation, with another content.",
    "wrong_tenant": "A receipt or a status update of one tenant names a delivery of another.",
    "orphan_receipt": "No delivery was found for a receipt within the waiting time.",
    "wrong_partition": "A record or a receipt's tracker names a home partition that does not exist or is not where it lies.",
    "attempts_exhausted": "Every attempt failed; the delivery was given up.",
    "schedule_full": "The delivery is for later, and too many of its tenant's or of all wait for their time already.",
    "deleted_before_read": "Kafka deleted records by age before the stage read them; the letter names their offsets.",
    "too_large_for_kafka": "What the stage makes of the record, or the gateway of a webhook's item, is larger than Kafka takes.",
    "refused_by_kafka": "Kafka refuses what the gateway makes of a webhook's item, and would refuse it again; the detail has its words.",
    "crashed_stage": "The stage's worker ended on this record again and again; it was set aside: a bug, please report it with the record.",
    "decision_failed": "The stage's own code failed on this record: a bug, please report it with the record.",
}
