"""Contacts: what lies under another key than its own content's is not taken, and said."""

import pytest

from pipelines.contacts import contact_in
from pipelines.engine.mirror import Mirror
from schemas import codec
from schemas.records import Address, Contact
from tests.builders import NOW, conversation


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


def test_a_mirror_keeps_what_it_had_and_counts_what_it_did_not_take() -> None:
    """As it is when records come: the thread around `_take` needs a Kafka, the rule does not."""
    mirror = Mirror(kafka_url="127.0.0.1:1", topic="contacts", decode=contact_in)
    mirror._take(b"ana", contact(address="1"))
    mirror._take(b"ana", contact(tenant_id="acme", address="666"))
    mirror._take(None, contact())
    mirror._take(b"acme/ana", contact(tenant_id="acme", address="2"))
    found = [mirror.get(key) for key in (b"ana", b"acme/ana")]
    assert [each.addresses[0].address for each in found if each] == ["1", "2"]
    assert (len(mirror), mirror.undecodable) == (2, 2)
    mirror._take(b"acme/ana", None)
    assert mirror.get(b"ana") is not None
    assert mirror.get(b"acme/ana") is None
