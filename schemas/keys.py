"""The keys of topics and tables that are made from several fields of a record.

Enters: ids as the records have them. Leaves: the key as text, which Kafka gets as UTF-8. Guaranteed: two different (tenant, conversation),
(tenant, user) or (tenant, conversation, message) have different keys, if `is_tenant` accepts the tenants. Every function is pure.
"""

import re
from typing import Protocol
from urllib.parse import quote

from schemas.person_addresses import one_form

DEFAULT_TENANT = "default"
_SHOWN = 40  # characters
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch  # texts that quoting would not change; `quote` itself is slow


class OfConversation(Protocol):
    """Any record of a conversation."""

    @property
    def tenant_id(self) -> str: ...

    @property
    def conversation_id(self) -> str: ...


def is_tenant(text: str) -> bool:
    """Whether the text is a valid tenant: 1 to 64 letters, digits, points, dashes or underscores, so never a slash."""
    return _TENANT.fullmatch(text) is not None


def conversation_key(tenant_id: str, conversation_id: str) -> str:
    """Key of every topic and table of a conversation. It decides the home partition (schemas/partitions.py)."""
    return _of_tenant(tenant_id, conversation_id)


def key_of(record: OfConversation) -> bytes:
    """The conversation_key of a record, in UTF-8."""
    return _of_tenant(record.tenant_id, record.conversation_id).encode()


def contact_key(tenant_id: str, user_id: str) -> str:
    """Key of the topic `contacts`."""
    return _of_tenant(tenant_id, user_id)


def named_in(key: str) -> tuple[str, str]:
    """The tenant and the id of a conversation_key or a contact_key."""
    tenant, slash, id_ = key.partition("/")
    return (tenant, id_) if slash else (DEFAULT_TENANT, key)


def message_key(tenant_id: str, conversation_id: str, message_id: str) -> str:
    """Key of the table `seen`: tenant, conversation and message with slashes between them, each percent-quoted, so that no id reads as
    two."""
    return "/".join((quoted(tenant_id), quoted(conversation_id), quoted(message_id)))


def provider_message_key(channel: str, account: str, provider_message_id: str) -> str:
    """Key of the topics `bindings` and `receipts`. It brings both sides of the join into one partition."""
    return f"{channel}:{account}:{provider_message_id}"


def person_key(channel: str, account: str, address: str) -> str:
    """Key of the topic `inbound`: a person, as one of our accounts knows them. It brings everything about them into one partition, with
    whichever form of their address we know them."""
    return f"{channel}:{account}:{one_form(channel, address)}"


def suppression_key(tenant_id: str, channel: str, account: str, address: str) -> str:
    """Key of the table `suppressed` and of the topic `suppressions`: a person, as one of our accounts knows them, with the tenant of what
    they write. Percent-quoted, so that no two of them share one; every form of an address has the same key."""
    person = ":".join((quoted(channel), quoted(account), quoted(one_form(channel, address))))
    return f"{quoted(tenant_id)}/{quoted(person)}"


def quoted(text: str) -> str:
    """The text percent-quoted: only letters, digits and `_.~-` stay as they are."""
    return text if _PLAIN(text) else quote(text, safe="")


def shown(key: bytes | None) -> str:
    """A key for a sentence: quoted, with at most 40 characters, whatever its bytes are."""
    text = (key or b"").decode(errors="replace")
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r} and {len(text) - _SHOWN} characters more"


def _of_tenant(tenant_id: str, id_: str) -> str:
    """The id alone for tenant `default`, so that a deployment with one tenant has simple keys; `tenant/id` for other tenants, and for an id
    with a slash, which could be the key of another tenant."""
    return id_ if tenant_id == DEFAULT_TENANT and "/" not in id_ else f"{tenant_id}/{id_}"
