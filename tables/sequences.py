"""Table `sequences`: the last sequence given in a conversation. Key: the conversation's (schemas/keys.py)."""

from dataclasses import dataclass

from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class Sequence:
    seq: int  # the last one given; the next message gets one more


SEQUENCES = JsonLayout("sequences", Sequence, keyed_by_record=True)
