"""Passwords and other secrets are masked."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from schemas.redaction import redactor
from schemas.secret_masking import MaskedText, MaskedUrl, masked
from stack.kafka_listeners import listeners
from stack.plan import StackPlan
from stack.service import Service
from stack.state import ServiceState, StackState

SECRET = "never-shown-9c1e"
URL = f"redis://default:{SECRET}@127.0.0.1:1/0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://chat4all:0f3c@127.0.0.1:5432/chat4all", "postgresql://chat4all:***@127.0.0.1:5432/chat4all"),
        ("redis://:0f3c@127.0.0.1:1/0, http://default:a%40b@h/d", "redis://:***@127.0.0.1:1/0, http://default:***@h/d"),
        ("no answer (POSTGRESQL://a:b@h/c)", "no answer (POSTGRESQL://a:***@h/c)"),
        ("redis://me:one@two@host/0", "redis://me:***@host/0"),
        ("postgresql://h/d?user=me&password=0f3c&sslmode=require", "postgresql://h/d?user=me&password=***&sslmode=require"),
        ("http://127.0.0.1:8123/?at=12:30@noon", "http://127.0.0.1:8123/?at=12:30@noon"),
        ("mailto a:b@c, 12:30@noon", "mailto a:b@c, 12:30@noon"),
    ],
)  # fmt: skip  # one case a line
def test_passwords_of_urls_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert redactor({})(text) == shown
    assert repr(MaskedUrl(text)) == repr(shown)
    assert repr(MaskedText(text)) == "'***'"


def test_secrets_are_masked_by_their_value_too() -> None:
    settings = {
        "telegram_token": "1234567890:AAEhBOweik6ad9r",
        "whatsapp_app_secrets": "newsecret1,oldsecret2",
        "valkey_url": "redis://default:9f8e7d6c5b4a@127.0.0.1:1/0",
        "internal_tokens": "client-of-ana==acme:anastasia-p, client-of-all=*:*",
        "internal_account": "app",
        "partitions": 4,
    }
    said = (
        "requirepass 9f8e7d6c5b4a; bot1234567890:AAEhBOweik6ad9r/getMe; signed with oldsecret2; account app, 4 partitions; "
        "Bearer client-of-ana= for anastasia-p; Bearer client-of-all"
    )
    assert redactor(settings)(said) == (
        "requirepass ***; bot***/getMe; signed with ***; account app, 4 partitions; Bearer *** for anastasia-p; Bearer ***"
    )


def test_an_address_has_no_password_unless_it_is_asked_for() -> None:
    row = ServiceState(name="valkey", url="redis://default:0f3c@127.0.0.1:1/0", status="ready")
    assert row.address == "redis://default:***@127.0.0.1:1/0"
    assert row.full_address == row.url


def holders(folder: Any) -> Iterator[Any]:
    """Objects of the stack that hold secrets in plain form, for its servers and its state file."""
    settings = {"valkey_url": URL, "kafka_password": SECRET}
    yield StackPlan(servers=[], settings=settings, replaced={"valkey": URL})
    yield StackState(pid=1, phase="ready", keep_data=False, settings=settings)
    yield ServiceState(name="valkey", url=URL, status="ready", parts={"valkey": URL})
    yield Service(
        name="valkey",
        folder=folder,
        url=URL,
        steps=[],
        probe=str,
        settings=settings,
        env={"A": SECRET},
        parts={"a": URL},
    )
    (folder / "chat4all.password").write_text(SECRET, encoding="ascii")
    yield listeners("password", folder, 1, 2)


def test_no_repr_shows_a_secret(tmp_path: Any) -> None:
    for holder in holders(tmp_path):
        assert SECRET in str(dataclasses.asdict(holder)), type(holder)
        assert SECRET not in repr(holder)
