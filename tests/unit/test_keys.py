"""Keys and ids: two different things never have the same one, whatever characters are in their ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import ids
from schemas.keys import contact_key, conversation_key, is_tenant, message_key, shown
from tests.support.builders import examples

_TENANTS = st.sampled_from(["default", "acme", "a", "a.b"])
_IDS = st.text(
    st.sampled_from("a/%2F:|é\x1f") | st.characters(codec="utf-8"), min_size=1, max_size=12
) | st.sampled_from(["acme/c", "default/c", "c", "a/c", "c/c", "c%2Fc"])


@pytest.mark.parametrize(
    ("tenant", "id_", "key"),
    [
        ("default", "c-1", "c-1"),
        ("default", "acme/c-1", "default/acme/c-1"),
        ("acme", "c-1", "acme/c-1"),
        ("acme", "c/1", "acme/c/1"),
    ],
)
def test_the_key_of_a_conversation_and_of_a_contact(tenant: str, id_: str, key: str) -> None:
    assert conversation_key(tenant, id_) == contact_key(tenant, id_) == key


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (("default", "c-1", "m-1"), "default/c-1/m-1"),
        (("acme", "whatsapp:49:155", "m/1"), "acme/whatsapp%3A49%3A155/m%2F1"),
    ],
)
def test_the_key_of_a_message_is_readable(place: tuple[str, str, str], key: str) -> None:
    assert message_key(*place) == key


@examples(500)
@given(one=st.tuples(_TENANTS, _IDS, _IDS), other=st.tuples(_TENANTS, _IDS, _IDS))
def test_two_things_never_have_one_key(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (message_key(*one) == message_key(*other)) == (one == other)
    assert (conversation_key(*one[:2]) == conversation_key(*other[:2])) == (one[:2] == other[:2])
    assert (ids.digest(one, 16) == ids.digest(other, 16)) == (one == other)


@examples(300)
@given(parts=st.lists(_IDS, max_size=4), others=st.lists(_IDS, max_size=4))
def test_a_digest_separates_its_parts(parts: list[str], others: list[str]) -> None:
    assert (ids.digest(parts, 8) == ids.digest(others, 8)) == (parts == others)


def test_a_tenant_has_no_slash() -> None:
    assert all(is_tenant(each) for each in ("default", "a", "A-b_c.9", "t" * 64))
    assert not any(is_tenant(each) for each in ("", "a/b", "t" * 65, "é", "a b", "a\n"))


@pytest.mark.parametrize("key", [None, b"", b"\xff" * 10_000, b"k" * 2_000_000, b"\x00" * 1000])
def test_a_sentence_shows_little_of_a_key(key: bytes | None) -> None:
    assert len(shown(key)) < 250
