"""Table `sequences` of stage route: the last sequence given in a conversation. Key: the conversation's key (schemas/keys.py)."""

from dataclasses import dataclass

from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class Sequence:
    """The sequence counter of one conversation."""

    seq: int  # the sequence of the last accepted message, from 1; the next message gets one more


SEQUENCES = JsonLayout("sequences", Sequence, keyed_by_record=True)
