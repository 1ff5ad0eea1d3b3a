"""The events that both stores are measured with: conversations of ten messages, four transitions each.

Enters: the number of a message. Leaves: records, as stage route and stage track make them. Pure.
"""

import uuid
from dataclasses import replace
from typing import Any, NamedTuple

from schemas.records import Cursor, DeliveryRef, DeliveryState, SequencedMessage
from tests.support.sink_databases import T0, sequenced, state

A_CONVERSATION = 10
VERSIONS = 4
PER_MESSAGE = 1 + VERSIONS + 1  # the message, its transitions, a cursor
TEXT = "Seu pedido foi enviado e chega amanhã entre 9h e 12h. Acompanhe a entrega pelo link da loja."


class Batch(NamedTuple):
    """What one transaction holds."""

    messages: list[SequencedMessage]
    states: list[DeliveryState]
    cursors: list[Cursor]

    @property
    def events(self) -> int:
        return len(self.messages) + len(self.states) + len(self.cursors)


def batch(first: int, messages: int) -> Batch:
    """The events of the messages with the numbers from `first` on. `messages` is a multiple of A_CONVERSATION."""
    found = Batch([], [], [])
    for number in range(first, first + messages):
        of = _names(number)
        seq = number % A_CONVERSATION + 1
        at = {"requested_at": T0 + number, "accepted_at": T0 + number + 5}
        ref = DeliveryRef(
            delivery_id=of["delivery_id"], channel="whatsapp", account="a", recipient=of["member"], address=of["member"]
        )
        ids = {name: of[name] for name in ("message_id", "conversation_id")}
        found.messages.append(sequenced(number, text=TEXT, seq=seq, deliveries=(ref,), **ids, **at))
        person = {"recipient": of["member"], "address": of["member"]}
        for version in range(1, VERSIONS + 1):
            event_id = f"{of['delivery_id']}:{version}"
            made = state(
                number, version, seq=seq, event_id=event_id, delivery_id=of["delivery_id"], **ids, **person, **at
            )
            found.states.append(replace(made, attempt=1 if version == 2 else 0))
        found.cursors.append(
            Cursor(
                conversation_id=of["conversation_id"],
                home_partition=0,
                member=of["member"],
                version=seq,
                last_delivered_seq=seq,
                last_read_seq=seq,
                newest_seq=seq,
                changed_at=T0 + number + 1000,
            )
        )
    return found


def _names(number: int) -> dict[str, Any]:
    conversation = number // A_CONVERSATION
    return {
        "message_id": str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 & (1 << 128) - 1)),
        "delivery_id": f"{number * 0xC2B2AE3D27D4EB4F165667B19E3779F9 & (1 << 128) - 1:032x}",
        "conversation_id": f"customer-{conversation:08d}",
        "member": f"1555{conversation:07d}",
    }
