"""For whom a token of the internal channel may act, and that no error about a wrong one shows it."""

import pytest
from pydantic import ValidationError

from schemas.client_tokens import ClientToken, tokens_in
from schemas.settings import Settings, wrong

LONG = "kept-to-itself"


def test_a_token_names_a_tenant_and_people() -> None:
    found = tokens_in(f" {LONG}==acme:ana| bob , {LONG}2=*:* ,")
    assert [(each.token, each.tenant, each.people) for each in found] == [
        (f"{LONG}=", "acme", frozenset({"ana", "bob"})),
        (f"{LONG}2", None, None),
    ]
    assert tokens_in("") == ()
    assert LONG not in repr(found)


def test_it_acts_for_no_other_person() -> None:
    (hers,) = tokens_in(f"{LONG}=acme:ana")
    asked = [("acme", "ana"), ("acme", "bob"), ("acme", "an"), ("default", "ana"), ("acme", "*")]
    assert [hers.speaks_for(*whom) for whom in asked] == [True, False, False, False, False]
    assert ClientToken(LONG, "acme").speaks_for("acme", "bob")
    assert not ClientToken(LONG, "acme").speaks_for("default", "bob")


@pytest.mark.parametrize(
    "entry",
    [LONG, f"{LONG}=acme", f"{LONG}=acme:", f"{LONG}=acme:ana||bob", f"{LONG}=a/b:ana", f"{LONG}=:ana", f"short=acme:{LONG}",
     f"{LONG} {LONG}=acme:ana", f"{LONG}=acme:ana,{LONG}=acme:bob", f"{LONG}=acme:{'a' * 257}"],
)  # fmt: skip  # one entry a line would be ten lines
def test_a_wrong_entry_is_one_line_that_does_not_show_it(entry: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"internal_tokens": entry})
    line = wrong(caught.value)
    assert line.startswith("CHAT4ALL_INTERNAL_TOKENS: ")
    assert "\n" not in line
    assert LONG not in line + str(caught.value)


def test_tokens_belong_to_the_tenant_that_owns_the_account() -> None:
    given = {"accounts": "internal:app=acme", "internal_account": "app"}
    for tenants in (("acme",), ("*", "acme")):
        Settings.model_validate(given | {"internal_tokens": ",".join(f"{LONG}{t}={t}:*" for t in tenants)})
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(given | {"internal_tokens": f"{LONG}=default:*"})
    assert "another tenant than acme" in wrong(caught.value)
    assert LONG not in str(caught.value)
