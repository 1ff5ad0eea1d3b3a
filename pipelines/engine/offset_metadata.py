"""What goes along with every offset a stage commits, as its metadata: which topics it stood on, which transaction of whom it was, and
whether the partition's last starts ended well.

Kafka keeps the metadata with the offset, so that the next owner of a partition finds it wherever it runs. Pure text; an offset set by
hand has none: whoever sets it has seen what there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

FIRST = "chat4all"


@dataclass(frozen=True, slots=True)
class OffsetMetadata:
    """`ids` is topic -> Kafka's id of it; `turn` names the transaction, `writer` is the transactional id it was written under. `starts`
    counts the starts of the partition since the last turn that was done with, `trying` is the record (topic, offset) that was being
    decided on alone."""

    ids: Mapping[str, str] = field(default_factory=dict)
    turn: str = ""
    starts: int = 0
    trying: tuple[str, int] | None = None
    writer: str = ""

    def text(self) -> str:
        words = [FIRST, *(f"{topic}={topic_id}" for topic, topic_id in self.ids.items())]
        if self.turn:
            words.append(f"#{self.turn}")
        if self.writer:
            words.append(f"@{self.writer}")
        if self.starts:
            words.append(f"!{self.starts}")
        if self.trying is not None:
            words.append(f"?{self.trying[0]}@{self.trying[1]}")
        return " ".join(words)


def read(text: str | None) -> OffsetMetadata:
    """The mark in an offset's metadata; an empty one when it is not ours."""
    first, *words = (text or "").split() or [""]
    if first != FIRST:
        return OffsetMetadata()
    ids: dict[str, str] = {}
    turn, writer, starts = "", "", 0
    trying: tuple[str, int] | None = None
    for word in words:
        rest = word[1:]
        if word.startswith("#"):
            turn = rest
        elif word.startswith("@"):
            writer = rest
        elif word.startswith("!"):
            starts = int(rest) if rest.isdecimal() else 0
        elif word.startswith("?"):
            topic, _, offset = rest.rpartition("@")
            trying = (topic, int(offset)) if topic and offset.isdecimal() else None
        else:
            topic, _, topic_id = word.partition("=")
            ids[topic] = topic_id
    return OffsetMetadata(ids, turn, starts, trying, writer)
