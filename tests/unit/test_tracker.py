"""Trackers: those that we made are valid with each of two keys; any other text is not, and raises nothing."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import tracker
from schemas.records import Delivery
from schemas.settings import Settings, wrong
from schemas.tracker import LIMIT, NO_KEYS, Keys, Tracker, keys_in
from tests.support.builders import delivery, examples, signed_tracker

OLD, NEW, FOREIGN = (letter * 32 for letter in (b"o", b"n", b"f"))
BEFORE, BETWEEN, AFTER = Keys((OLD,)), Keys((NEW, OLD)), Keys((NEW,))
IDS = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda text: text.strip() == text
)
DELIVERIES = st.builds(
    lambda tenant, name, conversation, home: delivery(
        name, tenant_id=tenant, conversation_id=conversation, home_partition=home
    ),
    st.sampled_from(["default", "acme"]),
    IDS,
    IDS,
    st.integers(0, 999),
)


def made(sent: Delivery, keys: Keys = BEFORE, attempt: int = 1, *, partial: bool = False) -> str:
    text = tracker.encode(sent, attempt, keys, partial=partial)
    assert text is not None
    return text


def decoded(text: str, keys: Keys) -> Tracker | None:
    """The tracker as it comes in a receipt of the account that sent it."""
    return tracker.decode(text, keys, "whatsapp", "acc-1")


@examples(200)
@given(sent=DELIVERIES, attempt=st.integers(1, 2**31 - 1), partial=st.booleans())
def test_a_tracker_is_decoded_as_it_was_made(sent: Delivery, attempt: int, partial: bool) -> None:
    text = tracker.encode(sent, attempt, BEFORE, partial=partial)
    assume(text is not None)
    assert text is not None
    assert len(text) <= LIMIT
    assert decoded(text, BEFORE) == Tracker(
        sent.tenant_id, sent.delivery_id, sent.conversation_id, sent.home_partition, attempt, partial
    )


@examples(300)
@given(data=st.data(), partial=st.booleans())
def test_with_any_bit_flipped_it_is_not_valid(data: st.DataObject, partial: bool) -> None:
    text = made(delivery(tenant_id="acme", home_partition=2), partial=partial)
    whole = bytearray(text.encode())
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    whole[place] ^= 1 << bit
    assert decoded(whole.decode("utf-8", "surrogateescape"), BEFORE) is None
    cut = data.draw(st.integers(0, len(text) - 1))
    assert decoded(text[:cut], BEFORE) is None


@examples(300)
@given(text=st.text(max_size=600) | st.from_regex(r"c4a[12]\|[A-Za-z0-9_-]{16}(\|[a-z0-9%]{1,9}){5,6}", fullmatch=True))
def test_no_other_text_is_valid_or_raises(text: str) -> None:
    assert decoded(text, BEFORE) is None


@pytest.mark.parametrize("partition", ["9" * 5000, "9" * 450, "-1", "٣", ""])
def test_a_signed_partition_that_is_not_a_number_raises_nothing(partition: str) -> None:
    said = f"|default|d1|c-1|{partition}|1"
    assert decoded(signed_tracker(said, BEFORE), BEFORE) is None


def test_the_unsigned_form_of_older_releases_is_not_valid() -> None:
    assert decoded("c4a1|default|dlv-1|conv-1|3|1", BEFORE) is None
    assert decoded("c4a2|default|dlv-1|conv-1|3|1", BEFORE) is None


def test_a_signature_is_of_one_delivery() -> None:
    one, other = made(delivery("d1", tenant_id="acme")), made(delivery("d2", tenant_id="globex"))
    _, signature, said = one[:4], one[5:21], other[21:]
    assert decoded(f"c4a2|{signature}{said}", BEFORE) is None


@pytest.mark.parametrize(
    ("channel", "account"), [("whatsapp", "acc-2"), ("whatsapp", ""), ("instagram", "acc-1"), ("whatsapp:acc-1", "")]
)
def test_a_copied_tracker_is_not_valid_for_another_account(channel: str, account: str) -> None:
    assert tracker.decode(made(delivery()), BEFORE, channel, account) is None
    assert tracker.decode(made(delivery(channel=channel, account=account)), BEFORE, channel, account) is not None


def test_no_part_of_an_account_reads_as_a_field() -> None:
    assert tracker.to_sign("whatsapp", "a|t", "|d") != tracker.to_sign("whatsapp", "a", "|t|d")
    assert tracker.to_sign("whatsapp:a", "b", "|d") != tracker.to_sign("whatsapp", "a:b", "|d")


def test_both_keys_verify_and_the_newest_signs() -> None:
    early = made(delivery(), BEFORE)
    assert decoded(early, BETWEEN) is not None
    assert decoded(early, AFTER) is None
    late = made(delivery(), BETWEEN)
    assert late == made(delivery(), AFTER)
    assert decoded(late, BEFORE) is None
    assert decoded(made(delivery(), Keys((FOREIGN,))), BETWEEN) is None


def test_without_a_key_no_tracker_is_made_or_valid() -> None:
    assert tracker.encode(delivery(), 1, NO_KEYS) is None
    assert decoded(made(delivery()), NO_KEYS) is None


def test_a_tracker_longer_than_whatsapp_allows_is_not_made() -> None:
    quoted = "|" * 120  # three characters each
    room = LIMIT - len(made(delivery(conversation_id=quoted)))
    assert len(made(delivery(conversation_id=quoted + "c" * room))) == LIMIT
    assert decoded(made(delivery(conversation_id=quoted + "c" * room)), BEFORE) is not None
    assert tracker.encode(delivery(conversation_id=quoted + "c" * (room + 1)), 1, BEFORE) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x" * 31, "key 1 has 31 bytes, fewer than 32: `openssl rand -hex 32` makes one"),
        ("x" * 32 + ", short-one", "key 2 has 9 bytes, fewer than 32: `openssl rand -hex 32` makes one"),
        (
            ",".join(("x" * 32, "y" * 32, "z" * 32)),
            "3 keys: keep the 2 newest, newest first, with a comma between them",
        ),
        (",".join(("x" * 32, "x" * 32)), "the same key twice: write it once"),
    ],
)
def test_wrong_keys_are_one_line_that_does_not_show_them(text: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"tracker_keys": text})
    assert wrong(raised.value) == f"CHAT4ALL_TRACKER_KEYS: Value error, {sentence}"
    assert not re.search("xxx|yyy|short-one", str(raised.value))


def test_no_repr_shows_the_keys_of_a_setting() -> None:
    keys = keys_in(" " + "x" * 32 + " , " + "ü" * 16 + ",")
    assert repr(keys) == "Keys(2)"
    assert decoded(made(delivery(), Keys((("ü" * 16).encode(),))), keys) is not None
    assert repr(keys_in("")) == "Keys(0)"
