"""What is shown in place of a secret."""

import pytest

from stack.masking import masked, secrets_of
from stack.state import ServiceState


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://chat4all:0f3c@127.0.0.1:5432/chat4all", "postgresql://chat4all:***@127.0.0.1:5432/chat4all"),
        ("redis://:0f3c@127.0.0.1:1/0, http://default:a%40b@h/d", "redis://:***@127.0.0.1:1/0, http://default:***@h/d"),
        ("no answer (POSTGRESQL://a:b@h/c)", "no answer (POSTGRESQL://a:***@h/c)"),
        ("http://127.0.0.1:8123/?at=12:30@noon", "http://127.0.0.1:8123/?at=12:30@noon"),
        ("mailto a:b@c, 12:30@noon", "mailto a:b@c, 12:30@noon"),
    ],
)
def test_passwords_of_urls_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_secrets_are_masked_by_their_value_too() -> None:
    settings = {
        "telegram_token": "1234567890:AAEhBOweik6ad9r",
        "whatsapp_app_secrets": "newsecret1,oldsecret2",
        "valkey_url": "redis://default:9f8e7d6c5b4a@127.0.0.1:1/0",
        "internal_account": "app",
        "partitions": 4,
    }
    said = "requirepass 9f8e7d6c5b4a; bot1234567890:AAEhBOweik6ad9r/getMe; signed with oldsecret2; account app, 4 partitions"
    assert (
        masked(said, secrets_of(settings))
        == "requirepass ***; bot***/getMe; signed with ***; account app, 4 partitions"
    )


def test_an_address_has_no_password_unless_it_is_asked_for() -> None:
    row = ServiceState(name="valkey", url="redis://default:0f3c@127.0.0.1:1/0", status="ready")
    assert row.address == "redis://default:***@127.0.0.1:1/0"
    assert row.full_address == row.url
