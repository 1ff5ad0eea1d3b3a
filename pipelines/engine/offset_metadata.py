"""The metadata of every offset that a stage commits: the ids of its topics, the transaction and its writer, and the starts of the
partition.

Enters and leaves: a line of text that Kafka keeps with the offset, so that the next owner of a partition finds it on any machine. An offset
that an operator sets by hand has no metadata; then nothing is checked. Pure, no I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

FIRST = "chat4all"


@dataclass(frozen=True, slots=True)
class OffsetMetadata:
    """`ids` is topic -> its id in Kafka. `turn` names the transaction, `writer` is the transactional id that wrote it. `starts` counts the
    starts of the partition since the last completed turn. `trying` is the record (topic, offset) that was being decided on alone."""

    ids: Mapping[str, str] = field(default_factory=dict)
    turn: str = ""
    starts: int = 0
    trying: tuple[str, int] | None = None
    writer: str = ""

    def text(self) -> str:
        """One line of words; `read` is the inverse. Names must not contain spaces."""
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
    """The metadata from the text of an offset; empty when the text is not Chat4All's. Never raises."""
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
