"""Contacts: a record under another key than that of its content is refused, with a sentence."""

import pytest

from pipelines.contacts import contact_in
from schemas import codec
from schemas.records import Address, Contact
from tests.support.builders import NOW, conversation


def contact(user_id: str = "ana", tenant_id: str = "default", address: str = "1") -> bytes:
    addresses = (Address(channel="whatsapp", address=address),)
    return codec.encode(Contact(tenant_id=tenant_id, user_id=user_id, addresses=addresses, updated_at=NOW))


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"ana", contact()), (b"acme/ana", contact(tenant_id="acme")), (b"default/a/b", contact("a/b"))],
    ids=["default", "another tenant", "a slash"],
)
def test_a_contact_under_its_own_key_is_taken(key: bytes, value: bytes) -> None:
    assert contact_in(key, value).addresses[0].address == "1"


BAD = {
    "another tenant's under ours": (b"ana", contact(tenant_id="acme")),
    "ours under another's": (b"acme/ana", contact()),
    "another user's": (b"bob", contact()),
    "an empty key": (b"", contact()),
    "a tenant that could be part of a key": (b"a/b/c", contact("c", tenant_id="a/b")),
    "a very long tenant": (b"x", contact(tenant_id="\x00" * 100_000)),
    "a very long user": (b"x", contact("\x00" * 100_000)),
    "no contact": (b"ana", codec.encode(conversation("ana"))),
    "junk": (b"ana", b"junk"),
}


@pytest.mark.parametrize(("key", "value"), BAD.values(), ids=BAD)
def test_what_does_not_belong_there_is_said_in_a_short_sentence(key: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match=r".{5,600}") as caught:
        contact_in(key, value)
    assert len(str(caught.value)) < 600
