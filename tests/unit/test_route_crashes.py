"""Stage route with any turns and any crashes: its outputs are those of its records one by one."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import Call, Output, Record, Refusal
from schemas.records import SequencedMessage
from tests.support.builders import (
    HERE,
    NOW,
    conversation_at_home,
    decoded,
    examples,
    message,
    numbered,
    passed,
    raw,
    record,
    to_address,
    to_user,
)
from tests.unit.test_route import ELSEWHERE, a_desk, a_route, members

_IDS = st.sampled_from([f"m{i}" for i in range(6)])
_WHERE = st.sampled_from([HERE, conversation_at_home(0, number=1), ELSEWHERE])
_MESSAGES = st.builds(
    message,
    _IDS,
    conversation_id=_WHERE,
    text=st.sampled_from(["olá", "olá", "bom dia", ""]),
    recipients=st.sampled_from([(to_user("ana"),), (to_address("1"),), (), (to_user("nobody"),)]),
    requested_at=st.integers(NOW - 9, NOW),
)
_RECORDS = st.lists(
    st.one_of(
        _MESSAGES.map(lambda each: record("messages", each)),
        _MESSAGES.map(lambda each: record("messages", each)),
        st.just(members("ana", "bob")),
        st.just(raw("messages", b"\x00junk")),
    ),
    max_size=25,
).map(numbered)


def _members_first(kafka_records: Sequence[Record]) -> list[Record]:
    return sorted(kafka_records, key=lambda each: each.topic != "conversations")


def _by_conversation(outputs: Sequence[Output]) -> dict[bytes, list[Output]]:
    found: dict[bytes, list[Output]] = {}
    for output in outputs:
        found.setdefault(output.key, []).append(output)
    return found


@examples(300)
@given(batch=_RECORDS, data=st.data())
def test_any_turns_and_any_crash_come_to_the_same_as_one_by_one(batch: list[Record], data: st.DataObject) -> None:
    """Turns of any size, each decided once or more: lost before its commit, by a rollback or a crash of the worker. Results of the mirror
    arrive at any time, or are lost with the worker that asked."""
    # within a turn, conversations are taken first; with them in front, the sizes of turns do not matter
    batch = _members_first(batch)
    alone, desk = a_desk(), a_desk()
    expected = [alone.committed([each]) for each in batch]
    outputs: list[Output] = []
    refusals: list[Refusal] = []
    left = batch
    asked: list[Call] = []
    while left or desk.rows("held"):
        size = data.draw(st.integers(1, len(left)), label="size of the turn") if left else 0
        fate = data.draw(st.sampled_from(["commit", "commit", "rollback", "restart"]), label="fate of the turn")
        answered = [passed(call) for call in asked if not left or data.draw(st.booleans(), label="answered")]
        decision = desk.decide(left[:size], answered)
        if fate == "rollback":
            desk.reopen()
        elif fate == "restart":
            desk.restart(a_route())
            asked = []
        else:
            desk.commit()
            outputs += decision.outputs
            refusals += decision.refusals
            left = left[size:]
            asked = [call for call in asked if passed(call) not in answered] + decision.calls
    assert _by_conversation(outputs) == _by_conversation([o for decision in expected for o in decision.outputs])
    assert sorted(refusals) == sorted(refusal for decision in expected for refusal in decision.refusals)
    assert desk.changelog == alone.changelog
    for conversation_id in (HERE, ELSEWHERE):
        given_out = [
            each.seq
            for each in decoded(outputs, "conversation-log", SequencedMessage)
            if each.conversation_id == conversation_id
        ]
        assert given_out == list(range(1, len(given_out) + 1))
