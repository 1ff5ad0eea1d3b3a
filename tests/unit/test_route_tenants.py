"""Stage route and tenants: records of one tenant change nothing of another tenant, and each sends with its own accounts."""

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.registry import CHANNELS
from pipelines.engine.stage import Output, Record
from pipelines.recipients import Reachable
from pipelines.route import Route, State
from schemas import codec
from schemas.accounts import Accounts
from schemas.keys import contact_key, conversation_key
from schemas.partitions import home_partition
from schemas.records import Address, Conversation, Delivery, Direction, Message, Recipient, SequencedMessage
from tests.support.builders import (
    HERE,
    NOW,
    PARTITIONS,
    Desk,
    conversation_at_home,
    decoded,
    examples,
    message,
    raw,
    record,
    refused,
    to_address,
    to_user,
)
from tests.unit.test_route import DEDUPE_MS, a_desk, a_route, contact, members, of, sequences, to_group


@pytest.fixture
def desk() -> Desk[State]:
    return a_desk()


def _with_account(account: str) -> Recipient:
    return Recipient(channel="whatsapp", address="1", account=account)


# --- a message is its tenant, its conversation and its id ---------------------------------------------------------------

OTHERS = {
    "conversation": {"conversation_id": conversation_at_home(0, number=1)},
    "tenant": {"tenant_id": "other", "conversation_id": conversation_at_home(0, tenant_id="other")},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("text", ["another", "olá"])
def test_the_same_id_in_another_place_is_another_message(text: str, changes: dict[str, str], desk: Desk[State]) -> None:
    decision = desk.turn(of(message("m"), message("m", text=text, **changes)))
    assert not decision.refusals
    assert sequences(decision.outputs) == [("m", 1), ("m", 1)]
    first, second = decoded(decision.outputs, "deliveries.whatsapp", Delivery)
    assert first.delivery_id != second.delivery_id
    assert len(desk.changelog["seen"]) == 2


def test_the_members_of_another_tenants_conversation_are_not_ours(desk: Desk[State]) -> None:
    name = conversation_at_home(0, tenant_id="other")
    desk.turn([members("ana", conversation_id=name, tenant_id="other")])
    assert set(desk.changelog["conversations"]) == {f"other/{name}".encode()}
    ours = a_desk(home_partition(name, PARTITIONS))
    ours.changelog = desk.changelog  # as if both had the same home partition
    ours.restart(a_route())
    assert refused(ours.turn([to_group(conversation_id=name)])) == ["no_recipient"]


WRONG_KEYS = {
    "of our conversation": HERE.encode(),
    "empty": b"",
    "none": None,
    "of another conversation": f"other/{HERE}x".encode(),
    "long": b"\xff" * 5000,
}


@pytest.mark.parametrize("key", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_members_under_another_key_are_refused(key: bytes | None, desk: Desk[State]) -> None:
    """Tenant B produces its conversation of the same id under our key."""
    desk.turn([members("ana")])
    before = dict(desk.changelog["conversations"])
    decision = desk.turn([members("bob", tenant_id="other")._replace(key=key)])
    (refusal,) = decision.refusals
    assert (refusal.cause, refusal.tenant_id) == ("wrong_key", "other")
    assert "set its key to that" in refusal.detail
    assert repr(f"other/{HERE}") in refusal.detail
    assert len(refusal.detail) < 400
    assert desk.changelog["conversations"] == before


def test_a_tenant_whose_name_could_be_part_of_a_key_has_no_members(desk: Desk[State]) -> None:
    """`a/b` with conversation `c` would have the key of `a` with `b/c`."""
    decision = desk.turn([members("bob", tenant_id="a/b"), members("bob", conversation_id="")._replace(key=b"k")])
    assert refused(decision) == ["field_out_of_limits", "field_out_of_limits"]
    assert {refusal.tenant_id for refusal in decision.refusals} == {"default"}


def test_a_message_keyed_by_the_id_alone_gets_its_tenants_key_when_rerouted(desk: Desk[State]) -> None:
    """A producer that knows no tenants uses this key: the record arrives in the home partition of the id, not of the conversation."""
    name = next(
        name
        for name in (conversation_at_home(0, number=n) for n in range(99))
        if home_partition(f"acme/{name}", PARTITIONS) == 2
    )
    sent = record("messages", message("m", tenant_id="acme", conversation_id=name), key=name.encode())
    decision = desk.turn([sent])
    assert decision.outputs == [Output("messages", f"acme/{name}".encode(), sent.value or b"", 2, ())]
    assert decision.counts == {"rerouted": 1}


# --- accounts -----------------------------------------------------------------------------------------------------------


class Sending(NamedTuple):
    label: str
    tenant_id: str
    recipient: Recipient
    account: str


SENDING = (
    Sending("the first of its own", "acme", to_address("1"), "acc-acme"),
    Sending("another of its own", "acme", _with_account("acc-acme-2"), "acc-acme-2"),
    Sending("the shared one by its name", "acme", _with_account("acc-wa"), "acc-wa"),
    Sending("the shared one, without one of its own", "zeta", to_address("1"), "acc-wa"),
    Sending("the one its contact names", "acme", to_user("lea"), "acc-acme-2"),
    Sending("its own on another channel", "acme", to_address("5", channel="telegram"), "88"),
)


@pytest.mark.parametrize("case", SENDING, ids=lambda case: case.label)
def test_a_tenant_sends_with(case: Sending, desk: Desk[State]) -> None:
    name = conversation_at_home(0, tenant_id=case.tenant_id)
    sent = message("m", tenant_id=case.tenant_id, conversation_id=name, recipients=(case.recipient,))
    (logged,) = decoded(desk.turn(of(sent)).outputs, "conversation-log", SequencedMessage)
    assert [each.account for each in logged.deliveries] == [case.account]


def test_a_configured_account_that_is_listed_is_shared_no_more() -> None:
    channels = {"whatsapp": Reachable("acc-wa", CHANNELS["whatsapp"].check)}
    owned = Accounts({("whatsapp", "acc-wa"): "acme"})
    desk = a_desk(stage=Route(partitions=PARTITIONS, dedupe_ms=DEDUPE_MS, channels=channels, accounts=owned))
    decision = desk.turn(of(message("m"), message("n", recipients=(_with_account("acc-wa"),))))
    assert refused(decision) == ["account_not_yours", "account_not_yours"]
    assert all("CHAT4ALL_ACCOUNTS" in refusal.detail for refusal in decision.refusals)
    name = conversation_at_home(0, tenant_id="acme")
    (logged,) = decoded(
        desk.turn(of(message("m", tenant_id="acme", conversation_id=name))).outputs,
        "conversation-log",
        SequencedMessage,
    )
    assert [each.account for each in logged.deliveries] == ["acc-wa"]


def test_a_refusal_names_the_tenant(desk: Desk[State]) -> None:
    name = conversation_at_home(0, tenant_id="acme")
    bad = message("m", tenant_id="acme", conversation_id=name, recipients=(to_user("nobody"),))
    unnamed = message("m", tenant_id="a" * 100_000)
    decision = desk.committed(of(bad, unnamed))
    assert [(each.cause, each.tenant_id) for each in decision.refusals] == [
        ("field_out_of_limits", "default"),
        ("unknown_user", "acme"),
    ]
    assert all(len(each.detail) < 300 for each in decision.refusals)


# --- two tenants, the same ids ------------------------------------------------------------------------------------------

TENANTS = ("default", "acme")
_CONVERSATIONS = st.sampled_from([HERE, "c", "acme/c", "default/c", f"acme/{HERE}"])
_PEOPLE = {
    contact_key(tenant, user).encode(): contact(
        user, Address(channel="whatsapp", address=f"1-{tenant}"), tenant_id=tenant
    )
    for tenant in TENANTS
    for user in ("ana", "eva")
}
_RECIPIENTS = st.sampled_from(
    [(to_user("ana"),), (to_address("1"),), (), (_with_account("acc-acme"),), (to_user("x"),)]
)


@st.composite
def _anything(draw: st.DrawFn, tenant_id: str) -> Record:
    """Records of a tenant: its own messages and members, and some with another tenant's key or a wrong direction."""
    conversation_id = draw(_CONVERSATIONS)
    key = conversation_key(draw(st.sampled_from([tenant_id, tenant_id, *TENANTS])), conversation_id).encode()
    place: dict[str, Any] = {"key": key, "partition": draw(st.integers(0, PARTITIONS - 1))}
    what = draw(st.sampled_from(["message", "message", "members", "inbound"]))
    if what == "members":
        members_of = Conversation(
            tenant_id=tenant_id,
            conversation_id=conversation_id,
            members=(draw(st.sampled_from(["ana", "eva"])),),
            updated_at=NOW,
        )
        return raw("conversations", codec.encode(members_of), **place)
    sent = message(
        draw(st.sampled_from(["m1", "m2", "m1/m2"])),
        tenant_id=tenant_id,
        conversation_id=conversation_id,
        recipients=() if what == "inbound" else draw(_RECIPIENTS),
        text=draw(st.sampled_from(["olá", "bom dia"])),
        direction=Direction.INBOUND if what == "inbound" else Direction.OUTBOUND,
    )
    return raw(draw(st.sampled_from(["messages", "conversation-inbound"])), codec.encode(sent), **place)


def _tenant(value: bytes | None, topic: str) -> str:
    types: dict[str, Any] = {"conversation-log": SequencedMessage, "messages": Message, "conversation-inbound": Message}
    found = codec.decode(value, types.get(topic, Conversation if topic == "conversations" else Delivery))
    return str(found.tenant_id)


def _all_partitions(batch: list[Record]) -> list[tuple[str, Any]]:
    """The outputs of the records one by one, in all partitions; a rerouted record is read at once in its home partition."""
    route = Route(
        partitions=PARTITIONS,
        dedupe_ms=DEDUPE_MS,
        channels={name: Reachable(f"acc-{name}", CHANNELS[name].check) for name in ("whatsapp", "telegram")},
        accounts=Accounts({("whatsapp", "acc-acme"): "acme"}),
    )
    desks = [Desk(route, number, {"contacts": _PEOPLE}) for number in range(PARTITIONS)]
    seen: list[tuple[str, Any]] = []
    left = list(batch)
    while left:
        each = left.pop(0)
        decision = desks[each.partition].committed([each])
        seen += [(refusal.cause, refusal.detail) for refusal in decision.refusals]
        for output in decision.outputs:
            if output.topic == each.topic:
                left.insert(0, raw(output.topic, output.value, key=output.key, partition=output.partition or 0))
            else:
                seen.append((_tenant(output.value, output.topic), output))
    return seen


@examples(200)
@given(ours=st.lists(_anything("default"), max_size=8), theirs=st.lists(_anything("acme"), max_size=8), data=st.data())
def test_what_a_tenant_does_changes_nothing_of_anothers(
    ours: list[Record], theirs: list[Record], data: st.DataObject
) -> None:
    """The same ids, keys, people and turns: the outputs of each tenant are those without the other tenant."""
    order = data.draw(st.permutations([0] * len(ours) + [1] * len(theirs)))
    sides = (iter(ours), iter(theirs))
    together = _all_partitions([next(sides[side]) for side in order])
    outputs = [each for each in together if isinstance(each[1], Output)]
    for tenant, alone in (("default", ours), ("acme", theirs)):
        expected = [each for each in _all_partitions(alone) if isinstance(each[1], Output)]
        assert [each for each in outputs if each[0] == tenant] == expected
    refusals = sorted(each for each in together if not isinstance(each[1], Output))
    apart = [each for each in _all_partitions(ours) + _all_partitions(theirs) if not isinstance(each[1], Output)]
    assert refusals == sorted(apart)
    made = [output for _, output in outputs if output.topic.startswith("deliveries.")]
    assert len({codec.decode(output.value, Delivery).delivery_id for output in made}) == len(made)
