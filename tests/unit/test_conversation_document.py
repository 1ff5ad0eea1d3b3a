"""The document of a conversation: made by the real stages from what happened, bounded, masked, and honest about what waits for what."""

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from pipelines import conversation_document
from pipelines.conversation_document import Document, PartitionGone
from pipelines.engine.stage import Result
from pipelines.lane_waits import Wait, wait_of
from pipelines.send import Send
from pipelines.send_state import SendLimits
from pipelines.send_state import State as SendState
from pipelines.track import Track
from schemas.outcomes import Accepted, RetryLater, Scope
from schemas.records import Cause, Delivery, Direction, Status
from tables.conversations import CONVERSATIONS, Members
from tables.held import HELD, HeldRecord
from tables.outstanding import Outstanding, Phase
from tables.sequences import SEQUENCES, Sequence
from tables.stores.memory import MemoryTable
from tests.support.builders import HERE, NOW, OBSERVED, Desk, delivery, record, ref, sequenced, update
from tests.support.counting_provider import Provider

PERSON = "15557654321"
LIMITS = SendLimits(concurrency=64, outstanding=1000, attempts=3, hold_ms=60_000)


class Partition:
    """A partition of core: stages track and send, and the rows of route."""

    def __init__(self) -> None:
        self.track = Desk(Track(state_ms=8 * 86_400_000, observed=OBSERVED))
        self.send: Desk[SendState] = Desk(Send(connectors={"whatsapp": Provider("whatsapp", "hold")}, limits=LIMITS))
        self.route = {layout.name: MemoryTable[Any](layout) for layout in (SEQUENCES, CONVERSATIONS, HELD)}
        self.held = True

    def message(self, seq: int, *members: str, **changes: Any) -> list[Delivery]:
        refs = [ref(f"d-{seq}-{name}", recipient=name, address=f"{PERSON}-{name}") for name in members]
        self.track.turn([record("conversation-log", sequenced(*refs, message_id=f"m-{seq}", seq=seq, **changes))])
        self.route["sequences"].put(HERE.encode(), Sequence(seq))
        return [
            delivery(each.delivery_id, message_id=f"m-{seq}", seq=seq, recipient=each.recipient, address=each.address)
            for each in refs
        ]

    def document(
        self, before: int | None = None, limit: int = 50, *, whole: bool = True, conversation: str = HERE
    ) -> Any:
        tables = {**self.track.tables, **self.send.tables, **self.route}
        made = Document("default", conversation, tables, self.send.state, lambda: self.held, NOW, whole)
        return asyncio.run(made.made(before, limit))


def test_what_is_not_there_is_none() -> None:
    assert Partition().document() is None


def test_the_whole_state_is_joined() -> None:
    core = Partition()
    core.route["conversations"].put(HERE.encode(), Members("default", ("ana", "bruno"), NOW))
    made = core.message(1, "ana", "bruno")
    core.send.turn([record("deliveries.whatsapp", each) for each in made])
    call = next(call for call in core.send.running.values() if call.request.delivery.recipient == "ana")
    core.send.turn(results=[Result(call, Accepted(("wamid.1",)))])
    for status in (Status.SENT, Status.DELIVERED, Status.READ):
        seen = update(f"e-{status}", delivery_id="d-1-ana", status=status, cause=Cause.RECEIPT, occurred_at=NOW + 5)
        core.track.turn([record("status-updates", seen)])
    found = core.document()
    assert (found["seq"], found["lanes_number"], found["held_number"], found["members_number"]) == (1, 1, 0, 2)
    (message,) = found["messages"]
    assert message["state"]["by_status"] == {"PENDING": 1, "READ": 1}
    ana, bruno = message["deliveries"]
    assert (ana["status"], ana["read_at"], bruno["status"]) == ("READ", NOW + 5, "PENDING")
    assert bruno["outstanding"]["waits_for"] == "answer"
    cursors = {each["member"]: (each["last_delivered_seq"], each["last_read_seq"]) for each in found["cursors"]}
    assert cursors == {"ana": (1, 1), "bruno": (0, 0)}


def test_a_lane_shows_its_head_and_what_is_behind_it() -> None:
    core = Partition()
    made = [core.message(seq, "ana")[0] for seq in range(1, 26)]
    core.send.turn([record("deliveries.whatsapp", each) for each in made])
    found = core.document()
    (lane,) = found["lanes"]
    assert (lane["head"]["seq"], lane["head"]["outstanding"]["phase"]) == (1, "calling")
    assert [each["seq"] for each in lane["behind"]] == list(range(2, 22))
    assert lane["behind_number"] == 24
    second = next(each for each in found["messages"] if each["seq"] == 2)["deliveries"][0]
    assert second["outstanding"]["why"] == "the end of delivery d-1-ana, the head of its lane"


def test_messages_are_paged_newest_first_and_gaps_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Partition()
    for seq in (1, 2, 3, 7, 8, 9):  # 4 to 6 have expired
        core.message(seq, "ana")
    assert [each["seq"] for each in core.document(limit=4)["messages"]] == [9, 8, 7, 3]
    assert core.document(limit=4)["before"] == 3
    assert [each["seq"] for each in core.document(before=3)["messages"]] == [2, 1]
    assert core.document(before=3)["before"] is None
    assert core.document(before=10**9)["messages"][0]["seq"] == 9
    monkeypatch.setattr(conversation_document, "GAPS", 2)
    assert [each["seq"] for each in core.document()["messages"]] == [9, 8, 7]


def test_a_large_group_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_document, "DELIVERIES_OF_A_PAGE", 250)
    core = Partition()
    members = [f"member-{n}" for n in range(300)]
    for seq in (1, 2, 3, 4):
        core.message(seq, *members)
    found = core.document()
    assert [(each["seq"], len(each["deliveries"]), each["deliveries_number"]) for each in found["messages"]] == [
        (4, 100, 300),
        (3, 100, 300),
        (2, 100, 300),
    ]
    assert found["before"] == 2
    assert found["messages"][0]["state"]["by_status"] == {"PENDING": 300}
    assert len(found["cursors"]) == 100


def test_a_partition_that_is_given_up_meanwhile_gives_no_half_document() -> None:
    core = Partition()
    members = [f"member-{n}" for n in range(300)]
    for seq in (1, 2, 3):
        core.message(seq, *members)
    core.held = False
    with pytest.raises(PartitionGone):
        core.document()


def test_held_messages_are_found_by_their_conversation() -> None:
    core = Partition()
    for n, conversation in enumerate((HERE, "another", HERE)):
        held = HeldRecord("default", conversation, 9 - n, ("messages", n, NOW), (), (b"k", b"v"))
        core.route["held"].put(f"messages/0/{n}".encode(), held)
    found = core.document()
    assert [each["place"] for each in found["held"]] == ["messages/0/2", "messages/0/0"]


def test_a_document_shows_no_text_and_no_address_without_the_full_token() -> None:
    core = Partition()
    conversation = f"whatsapp:1:{PERSON}"
    core.route["conversations"].put(conversation.encode(), Members("default", (PERSON, "Ana"), NOW))
    refs = [ref("d-1", recipient=PERSON, address=PERSON)]
    log = sequenced(*refs, conversation_id=conversation, message_id=f"m-{PERSON}", seq=1)
    core.track.turn([record("conversation-log", log)])
    changes: dict[str, Any] = {"status": Status.FAILED, "cause": Cause.REJECTED, "reason_code": "131026"}
    reason = update("e-1", delivery_id="d-1", conversation_id=conversation, reason="Ana blocked us", **changes)
    core.track.turn([record("status-updates", reason)])
    core.route["sequences"].put(conversation.encode(), Sequence(1))
    sent = delivery("d-2", conversation_id=conversation, recipient=PERSON, address=PERSON, message_id=f"n-{PERSON}")
    core.send.turn([record("deliveries.whatsapp", sent)])
    whole, cut = (json.dumps(core.document(whole=each, conversation=conversation)) for each in (True, False))
    assert all(each in whole for each in (PERSON, "Ana"))
    assert [each for each in (PERSON, "Ana") if each in cut] == []
    assert all(each in cut for each in ("131026", "d-1", "d-2", "FAILED", "answer"))


def test_an_inbound_message_has_no_deliveries_and_no_state() -> None:
    core = Partition()
    core.message(1, direction=Direction.INBOUND)
    (message,) = core.document()["messages"]
    assert (message["direction"], message["state"], message["deliveries"]) == ("INBOUND", None, [])


def test_a_throttled_account_is_named_as_the_reason() -> None:
    core = Partition()
    core.send.turn([record("deliveries.whatsapp", each) for each in core.message(1, "ana")])
    (call,) = core.send.running.values()
    throttled = RetryLater("slower", "429", after_seconds=60.0, throttled=True, scope=Scope.ACCOUNT)
    core.send.turn(results=[Result(call, throttled, NOW)])
    core.send.turn([record("deliveries.whatsapp", each) for each in core.message(2, "bruno")])
    (bruno,) = core.document(before=3, limit=1)["messages"][0]["deliveries"]
    (ana,) = core.document(before=2)["messages"][0]["deliveries"]
    assert (ana["outstanding"]["waits_for"], ana["outstanding"]["until"]) == ("retry", NOW + 60_000)
    assert (bruno["outstanding"]["waits_for"], bruno["outstanding"]["until"]) == ("account", NOW + 60_000)


ROW = Outstanding(delivery("d-2", seq=2), ("deliveries.whatsapp", 1, NOW))


@pytest.mark.parametrize(
    ("changes", "head", "blocked", "waits"),
    [
        ({"phase": Phase.CALLING, "attempt": 2}, "d-2", None, ("answer", None)),
        ({"phase": Phase.HELD, "attempt": 1, "not_before": NOW + 9}, "d-2", None, ("evidence", NOW + 9)),
        ({"not_before": NOW + 9}, None, None, ("time", NOW + 9)),
        ({}, "d-1", None, ("lane", None)),
        ({"attempt": 1, "failures": 1, "not_before": NOW + 9}, "d-2", NOW + 99, ("retry", NOW + 9)),
        ({"attempt": 1, "not_before": NOW - 1}, "d-2", NOW + 99, ("account", NOW + 99)),
        ({}, "d-2", NOW - 1, ("call", None)),
        ({}, "d-2", None, ("call", None)),
    ],
)
def test_every_wait_has_a_reason_and_an_end(
    changes: dict[str, Any], head: str | None, blocked: int | None, waits: tuple[str, int | None]
) -> None:
    found = wait_of(dataclasses.replace(ROW, **changes), head=head, blocked_until=blocked, now=NOW)
    assert isinstance(found, Wait)
    assert (found.waits_for, found.until) == waits
    assert found.why
