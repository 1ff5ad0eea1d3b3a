"""The gateway gives a preference the tenant of its account, and the key of its person, as it does for what the person writes."""

import dataclasses

from connectors.base import Inbound, WebhookItems
from connectors.webhook_limits import trimmed_to_limits
from pipelines.gateway import _accounts_of, _inbound, _preference
from schemas import codec
from schemas.accounts import accounts_in
from schemas.records import InboundMessage, Preference
from tests.support.builders import NOW, preference

ACCOUNTS = accounts_in("whatsapp:acc-1=acme")


def test_a_preference_has_the_tenant_of_its_account_and_the_key_of_its_person() -> None:
    said = preference(address="5531987650001")
    written = Inbound("whatsapp", "acc-1", "553187650001", "wamid.1", "text", "SAIR", NOW)
    record, message = _preference(said, ACCOUNTS), _inbound(written, NOW, ACCOUNTS)
    assert (record.topic, record.partition) == ("inbound", None)
    assert codec.decode(record.value, Preference) == dataclasses.replace(said, tenant_id="acme")
    assert codec.decode(message.value, InboundMessage).tenant_id == "acme"
    assert record.key == message.key, "both forms of the number are one person, so one partition decides on them"


def test_where_items_name_their_tenant_it_stays() -> None:
    record = _preference(preference(tenant_id="beta"), None)
    assert codec.decode(record.value, Preference).tenant_id == "beta"


def test_a_preference_counts_for_the_rate_of_its_account() -> None:
    assert _accounts_of("whatsapp", WebhookItems(preferences=(preference(),))) == {"whatsapp:acc-1"}


def test_a_preference_beyond_the_limits_is_named_and_the_others_stay() -> None:
    items = trimmed_to_limits(
        WebhookItems(preferences=(preference(address="1" * 257), preference(), preference(reason="x" * 65)))
    )
    assert items.preferences == (preference(),)
    assert len(items.unrecognised) == 2
    assert all(each.startswith("preference: ") for each in items.unrecognised)
