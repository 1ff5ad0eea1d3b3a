"""A scenario is the same for the same seed, has the requested shares, and knows every delivery in advance."""

import re
from collections import Counter
from dataclasses import replace

from loadgen.scenario import DUPLICATE_DISTANCE, Scenario
from simulators.provider_log import text_key

CHANNELS = ("whatsapp", "telegram", "instagram", "internal")
BASE = Scenario(
    run="r1", seed=5, count=2000, channels=CHANNELS, conversations=40, group_share=0.1, groups=2, duplicate_share=0.05
)


def test_the_same_seed_makes_the_same_messages() -> None:
    assert list(BASE.messages()) == list(BASE.messages())
    assert list(BASE.messages()) != list(replace(BASE, seed=6).messages())
    assert {each.message_id for each in BASE.messages()}.isdisjoint(
        each.message_id for each in replace(BASE, run="r2").messages()
    )


def test_shares_are_kept() -> None:
    messages = list(BASE.messages())
    originals = [each for each in messages if not each.is_duplicate]
    assert len(originals) == len({each.message_id for each in originals}) == 2000
    assert 60 <= len(messages) - len(originals) <= 140
    assert 140 <= sum(not each.recipients for each in originals) <= 260
    singles = [each.recipients[0] for each in originals if each.recipients]
    assert 0.4 <= sum(each.user_id is not None for each in singles) / len(singles) <= 0.6
    assert all((each.user_id is None) == (each.address is not None) for each in singles)


def test_a_duplicate_follows_its_original_and_equals_it() -> None:
    seen: dict[str, tuple[int, object]] = {}
    for place, each in enumerate(BASE.messages()):
        plain = replace(each, is_duplicate=False, comes_again=False)
        if each.is_duplicate:
            first, original = seen.pop(each.message_id)
            assert original == plain
            assert 0 < place - first <= DUPLICATE_DISTANCE * 1.2
        elif each.comes_again:
            seen[each.message_id] = (place, plain)
    assert not seen, "every announced duplicate came"


def test_every_person_has_one_address_and_every_conversation_its_people() -> None:
    contacts = {each.user_id: each.addresses for each in BASE.contacts(1)}
    assert all(len(addresses) == 1 for addresses in contacts.values())
    known = {user: (addresses[0].channel, addresses[0].address) for user, addresses in contacts.items()}
    assert len(set(known.values())) == len(known)
    members = {each.conversation_id: each.members for each in BASE.group_conversations(1)}
    assert {len(each) for each in members.values()} == {20}
    people: dict[str, object] = {}
    for each in BASE.messages():
        named = each.recipients or None
        expected = people.setdefault(each.conversation_id, each.expected)
        assert each.expected == expected, "one conversation, the same people throughout"
        if named is None:
            assert each.expected == tuple(known[user] for user in members[each.conversation_id])
        elif named[0].user_id is not None:
            assert each.expected == (known[named[0].user_id],)
        else:
            assert each.expected == ((named[0].channel, named[0].address),)
    channels = Counter(channel for expected in people.values() for channel, _ in expected)  # type: ignore[attr-defined]  # a tuple, kept as object
    assert set(channels) == set(CHANNELS)


def test_addresses_are_what_the_providers_take_and_texts_name_their_message() -> None:
    shapes = {
        "whatsapp": r"1555\d{7}",
        "telegram": r"[1-9]\d{8}",
        "instagram": r"\d{17}",
        "internal": r"person-\d+",
    }
    for each in BASE.messages():
        assert text_key(each.text) == f"{each.conversation_id}/{each.message_id}"
        for channel, address in each.expected:
            assert re.fullmatch(shapes[channel], address)


def test_without_groups_there_are_none() -> None:
    alone = replace(BASE, group_share=0.0, duplicate_share=0.0, count=100)
    assert not list(alone.group_conversations(1))
    assert all(len(each.expected) == 1 for each in alone.messages())
    assert len(list(alone.contacts(1))) == 20
