"""One person has one key, whatever form of their address an application, WhatsApp or a receipt uses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.keys import person_key, suppression_key
from schemas.person_addresses import one_form
from schemas.records import CHANNELS
from simulators.whatsapp_bodies import canonical


@pytest.mark.parametrize(
    ("forms", "other"),
    [
        (("5531987654321", "553187654321", "+55 (31) 98765-4321"), "553187654322"),  # Brazil: the ninth digit
        (("5215512345678", "525512345678", "+52 55 1234 5678"), "525512345679"),  # Mexico: 1
        (("5491112345678", "541112345678", "+54 9 11 1234-5678"), "541112345679"),  # Argentina: 9
        (("15551234567", "+1 555 123-4567"), "15551234568"),
        (("US.13491208655302741918",), "IN.13491208655302741918"),  # hides the number
        (("not a number",), "no number"),
    ],
)
def test_the_forms_of_a_whatsapp_address_are_one_person(forms: tuple[str, ...], other: str) -> None:
    assert len({one_form("whatsapp", form) for form in forms}) == 1
    assert one_form("whatsapp", other) != one_form("whatsapp", forms[0])
    assert len({person_key("whatsapp", "1", form) for form in forms}) == 1
    assert len({suppression_key("t", "whatsapp", "1", form) for form in forms}) == 1


@given(st.from_regex(r"\+?(55|52|521|54|549|1|49)[0-9]{8,11}", fullmatch=True))
def test_the_number_that_we_call_and_whatsapps_id_are_one_person(number: str) -> None:
    """`canonical` is the simulated WhatsApp's own rule for its ids."""
    assert one_form("whatsapp", canonical(number)) == one_form("whatsapp", number)


@given(st.sampled_from(CHANNELS), st.text(min_size=1, max_size=256))
def test_the_form_of_a_form_is_itself_and_no_longer(channel: str, address: str) -> None:
    form = one_form(channel, address)
    assert one_form(channel, form) == form
    assert 0 < len(form) <= len(address)
    assert channel == "whatsapp" or form == address


NAMES = st.text(st.sampled_from("a1:/%|+ é"), min_size=1, max_size=6)


@given(*(st.tuples(st.just("t") | st.just("u"), st.just("telegram"), NAMES, NAMES) for _ in range(2)))
def test_two_people_never_have_one_suppression(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    assert (suppression_key(*one) == suppression_key(*other)) is (one == other)
