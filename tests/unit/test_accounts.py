"""Accounts of tenants, and errors in a list of accounts."""

import pytest
from pydantic import ValidationError

from schemas.accounts import NONE_LISTED, accounts_in
from schemas.settings import Settings, wrong

LISTED = accounts_in(" whatsapp:491=acme, whatsapp:492=acme ,telegram:7=zeta,whatsapp:493=zeta,")


def test_an_account_that_is_listed_serves_its_tenant_alone() -> None:
    assert LISTED.may_use("acme", "whatsapp", "492", "490")
    assert not LISTED.may_use("zeta", "whatsapp", "492", "490")
    assert not LISTED.may_use("default", "whatsapp", "492", "490")
    assert not LISTED.may_use("acme", "telegram", "492", "490"), "of another channel"
    assert not LISTED.may_use("zeta", "whatsapp", "491", "491"), "though it is the configured one"


def test_the_configured_account_is_shared_unless_it_is_listed() -> None:
    for accounts in (LISTED, NONE_LISTED):
        assert all(accounts.may_use(tenant, "whatsapp", "490", "490") for tenant in ("default", "acme", "zeta"))
        assert not accounts.may_use("default", "whatsapp", "499", "490")


@pytest.mark.parametrize(
    ("tenant", "channel", "shared", "found"),
    [
        ("acme", "whatsapp", "490", "491"),
        ("acme", "telegram", "8", "8"),
        ("zeta", "whatsapp", "490", "493"),
        ("default", "whatsapp", "490", "490"),
        ("default", "whatsapp", "491", None),
        ("default", "telegram", "7", None),
    ],
)
def test_what_a_tenant_sends_with(tenant: str, channel: str, shared: str, found: str | None) -> None:
    assert LISTED.account_for(tenant, channel, shared) == found


def test_an_inbound_item_belongs_to_the_tenant_of_its_account() -> None:
    assert LISTED.tenant_of("whatsapp", "491") == "acme"
    assert LISTED.tenant_of("telegram", "491") == LISTED.tenant_of("whatsapp", "490") == "default"


WRONG = {
    "no tenant": ("whatsapp:491", "write channel:account=tenant"),
    "no account": ("whatsapp=acme", "write channel:account=tenant"),
    "an empty account": ("whatsapp:=acme", "1 to 128 visible ASCII"),
    "an account with a colon": ("internal:a:b=acme", "1 to 128 visible ASCII"),
    "an account with a space": ("internal:a b=acme", "1 to 128 visible ASCII"),
    "an unknown channel": ("pigeon:1=acme", "no channel 'pigeon', there are whatsapp,"),
    "a tenant with a slash": ("whatsapp:491=a/b", "a tenant has 1 to 64"),
    "an empty tenant": ("whatsapp:491=", "a tenant has 1 to 64"),
    "two tenants": ("whatsapp:491=acme,telegram:1=b,whatsapp:491=zeta", "whatsapp:491 is listed twice"),
    "something very long": ("x" * 1_000_000, "write channel:account=tenant"),
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(text: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        accounts_in(text)
    assert len(str(caught.value)) < 300
    monkeypatch.setenv("CHAT4ALL_ACCOUNTS", text)
    with pytest.raises(ValidationError) as refused:
        Settings()
    line = wrong(refused.value)
    assert line.startswith("CHAT4ALL_ACCOUNTS: ")
    assert sentence in line
    assert len(line) < 350
    assert "\n" not in line
