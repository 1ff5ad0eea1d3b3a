"""Which messages of a batch are new, which are stored already, and which contradict what is stored.

Enters: the messages of a batch in the order of their topic, and what PostgreSQL holds of them (staging.FIND_STORED). Leaves: their places
in the batch. Guaranteed: however the messages are cut into batches, the same ones are stored, and the same ones set aside; a conversation
gives each sequence and each message id once, over all months. Pure.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from schemas.records import SequencedMessage
from sinks.storable_text import held


class Stored(NamedTuple):
    """What is stored of the message at `place` of a batch."""

    place: int
    is_it: bool  # this very message
    is_id_known: bool  # its id, in its conversation
    is_seq_taken: bool  # its sequence, by another message of its conversation
    is_elsewhere: bool  # its id, in another conversation of the tenant


class Sorted(NamedTuple):
    """Places in the batch. `reused` is how many of the new messages have an id that the tenant used before in another conversation."""

    replays: list[int]
    conflicts: list[int]
    reused: int


_NOTHING = Stored(-1, False, False, False, False)


def sort_out(messages: Sequence[SequencedMessage], stored: Iterable[Stored]) -> Sorted:
    """The messages that are not new, and how many of the new ones reuse an id."""
    held_of = {each.place: each for each in stored}
    replays: list[int] = []
    conflicts: list[int] = []
    ids: dict[tuple[str, str, str], tuple[int, int]] = {}  # of the batch's new messages
    seqs: set[tuple[str, str, int]] = set()
    used: set[tuple[str, str]] = set()
    reused = 0
    for place, message in enumerate(messages):
        known = held_of.get(place, _NOTHING)
        id_ = (message.tenant_id, message.conversation_id, message.message_id)
        seq = (message.tenant_id, message.conversation_id, message.seq)
        was = (message.seq, held(message.accepted_at))
        if known.is_it or ids.get(id_) == was:
            replays.append(place)
        elif known.is_id_known or known.is_seq_taken or id_ in ids or seq in seqs:
            conflicts.append(place)
        else:
            anywhere = (message.tenant_id, message.message_id)
            reused += known.is_elsewhere or anywhere in used
            ids[id_] = was
            seqs.add(seq)
            used.add(anywhere)
    return Sorted(replays, conflicts, reused)
