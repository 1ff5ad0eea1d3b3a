"""Which messages of a batch are new: however they are cut into batches, the same ones are stored, and the same ones set aside."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import SequencedMessage
from schemas.retention_days import DAY_MS, Retention, retention_in
from sinks.message_conflicts import Stored, sort_out
from tests.support.sink_databases import T0, sequenced


class Relation:
    """PostgreSQL's answer, by looking at everything."""

    def __init__(self) -> None:
        self.rows: list[SequencedMessage] = []
        self.conflicts: set[tuple[str, int, int]] = set()
        self.reused = 0

    def find(self, place: int, message: SequencedMessage) -> Stored:
        own = [each for each in self.rows if each.conversation_id == message.conversation_id]
        same = [each for each in own if each.message_id == message.message_id]
        return Stored(
            place,
            any((each.seq, each.accepted_at) == (message.seq, message.accepted_at) for each in same),
            bool(same),
            any(each.seq == message.seq and each.message_id != message.message_id for each in own),
            any(
                each.message_id == message.message_id and each.conversation_id != message.conversation_id
                for each in self.rows
            ),
        )

    def write(self, batch: list[SequencedMessage]) -> None:
        found = sort_out(batch, [self.find(place, message) for place, message in enumerate(batch)])
        self.reused += found.reused
        self.conflicts |= {(batch[n].message_id, batch[n].seq, batch[n].accepted_at) for n in found.conflicts}
        self.rows += [each for n, each in enumerate(batch) if n not in {*found.conflicts, *found.replays}]


MESSAGES = st.builds(
    lambda n, seq, conversation, at: sequenced(n, seq=seq, conversation_id=conversation, accepted_at=T0 + at),
    st.integers(0, 3),
    st.integers(1, 4),
    st.sampled_from(["c1", "c2"]),
    st.integers(0, 1),
)


@given(messages=st.lists(MESSAGES, max_size=14), cuts=st.lists(st.integers(0, 14), max_size=4))
def test_where_batches_begin_and_end_changes_nothing(messages: list[SequencedMessage], cuts: list[int]) -> None:
    one, other, many = Relation(), Relation(), Relation()
    for message in messages:
        one.write([message])
    other.write(messages)
    edges = [0, *sorted(cuts), len(messages)]
    for first, end in pairwise(edges):
        many.write(messages[first:end])
    assert one.rows == other.rows == many.rows
    assert one.conflicts == other.conflicts == many.conflicts
    assert one.reused == other.reused == many.reused
    for keys in ("message_id", "seq"):
        given_once = [(each.conversation_id, getattr(each, keys)) for each in one.rows]
        assert len(given_once) == len(set(given_once))
    stored = list(many.rows)
    many.write(messages)
    assert many.rows == stored, "a replay changes nothing"


@pytest.mark.parametrize("text", ["acme", "acme=", "acme=0", "acme=x", "a b=3", "acme=3,acme=4", "acme=99999", "=3"])
def test_a_wrong_retention_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"days|tenant|twice"):
        retention_in(0, text)


def test_retention_keeps_by_tenant_and_never_judges_by_an_implausible_time() -> None:
    kept = retention_in(90, "acme=10, other=400")
    now = T0 / 1000
    assert (bool(retention_in(0, "")), retention_in(0, "acme=10").longest, kept.longest) == (False, None, 400)
    ages = {"default": (89, 91), "acme": (9, 11), "other": (399, 401)}
    for tenant, (young, old) in ages.items():
        assert kept.keeps(tenant, T0 - young * DAY_MS, now)
        assert not kept.keeps(tenant, T0 - old * DAY_MS, now)
        assert kept.keeps(tenant, 0, now)
    assert Retention().keeps("acme", 0, now)
