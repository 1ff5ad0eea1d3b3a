"""A token of the internal channel speaks for its tenant and its people: when a request names others, nothing of it is kept."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from connectors.base import ForbiddenItem, WebhookItems, WebhookRequest
from connectors.internal.connector import InternalConnector
from schemas.client_tokens import tokens_in
from schemas.ids import shown_id
from schemas.records import Delivery
from schemas.settings import Settings

AT = 1_750_857_390_123
HERS, ACME, ALL = "of-ana-only", "of-all-of-acme", "of-all-tenants"
TOKENS = tokens_in(f"{HERS}=acme:ana|eve,{ACME}=acme:*,{ALL}=*:*")
SHARED = InternalConnector(account="app", tokens=TOKENS)


def read(token: str, **whom: str) -> WebhookItems:
    """As `read_by`, with the connector that all tenants share."""
    return read_by(SHARED, token, whom)


def read_by(connector: InternalConnector, token: str, whom: Mapping[str, str]) -> WebhookItems:
    """The items of a request with a receipt and a message of the same person."""
    receipt: dict[str, Any] = {"delivery_id": "dlv-1", "status": "read", **whom}
    message: dict[str, Any] = {"id": "m-1", "kind": "text", "text": "a", **whom}
    body = json.dumps({"receipts": [receipt], "messages": [message]}).encode()
    return connector.parse_webhook(WebhookRequest("POST", {}, {"authorization": f"Bearer {token}"}, body), AT)


@pytest.mark.parametrize(
    ("token", "whom", "tenant"),
    [
        (HERS, {"address": "ana"}, "acme"),
        (HERS, {"address": "eve", "tenant_id": "acme"}, "acme"),
        (ACME, {"address": "bob"}, "acme"),
        (ALL, {"address": "bob"}, "default"),
        (ALL, {"address": "bob", "tenant_id": "acme"}, "acme"),
    ],
)
def test_a_token_speaks_for_its_tenant_and_people(token: str, whom: dict[str, str], tenant: str) -> None:
    items = read(token, **whom)
    assert items.own_tenants
    assert [each.tenant_id for each in items.receipts] == [each.tenant_id for each in items.inbound] == [tenant]
    assert items.receipts[0].provider_message_id == shown_id("dlv-1", tenant, whom["address"])


@pytest.mark.parametrize(
    ("token", "whom"),
    [
        (HERS, {"address": "bob"}),
        (HERS, {"address": "ana", "tenant_id": "default"}),
        (ACME, {"address": "ana", "tenant_id": "other"}),
    ],
)
def test_a_token_speaks_for_no_other_person(token: str, whom: dict[str, str]) -> None:
    with pytest.raises(ForbiddenItem) as caught:
        read(token, **whom)
    assert (caught.value.status, whom["address"] in str(caught.value)) == (403, False)


def test_one_forbidden_item_refuses_the_whole_request() -> None:
    items = [{"delivery_id": "d", "address": each, "status": "read"} for each in ("ana", "bob")]
    body = json.dumps({"receipts": items}).encode()
    with pytest.raises(ForbiddenItem):
        SHARED.parse_webhook(WebhookRequest("POST", {}, {"authorization": f"Bearer {HERS}"}, body), AT)


@pytest.mark.parametrize("tenant", [5, "", [], {"a": 1}, "a/b", "x" * 65, "acm\u00e9", "acme\n"])
def test_a_malformed_tenant_is_refused_and_not_the_default_tenant(tenant: object) -> None:
    receipt = {"delivery_id": "dlv-1", "status": "read", "address": "ana"}
    message = {"id": "m-1", "kind": "text", "address": "ana"}
    body = {
        "receipts": [receipt | {"tenant_id": tenant}, receipt],
        "messages": [message | {"tenant_id": tenant}, message],
    }
    headers = {"authorization": f"Bearer {ALL}"}
    items = SHARED.parse_webhook(WebhookRequest("POST", {}, headers, json.dumps(body).encode()), AT)
    assert [each.tenant_id for each in items.receipts] == [each.tenant_id for each in items.inbound] == ["default"]
    assert len(items.unrecognised) == 2
    assert all("tenant_id" in name for name in items.unrecognised)


def test_an_account_of_one_tenant_accepts_no_item_of_another() -> None:
    owned = InternalConnector.from_settings(
        Settings.model_validate(
            {"internal_account": "app", "accounts": "internal:app=acme", "internal_tokens": f"{ALL}=*:*"}
        )
    )
    assert read_by(owned, ALL, {"address": "bob"}).receipts[0].tenant_id == "acme"
    with pytest.raises(ForbiddenItem):
        read_by(owned, ALL, {"address": "bob", "tenant_id": "default"})


async def test_a_receipt_finds_only_the_delivery_of_its_person_and_tenant() -> None:
    """The provider id of a delivery is the one that a receipt of the right person names, and no other receipt."""
    sent = Delivery(
        tenant_id="acme",
        delivery_id="dlv-1",
        message_id="m",
        conversation_id="c",
        home_partition=0,
        seq=1,
        channel="internal",
        account="app",
        recipient="",
        address="ana",
        kind="text",
        text="a",
        requested_at=AT,
        accepted_at=AT,
    )
    outcome = await SHARED.send(sent, 1)
    named = {
        read(ALL, address=a, tenant_id=t).receipts[0].provider_message_id: (a, t)
        for a in ("ana", "bob")
        for t in ("acme", "default")
    }
    assert len(named) == 4
    assert [named[each] for each in getattr(outcome, "provider_ids", ())] == [("ana", "acme")]
