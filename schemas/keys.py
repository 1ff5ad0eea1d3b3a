"""The keys of topics and tables that are not a field of their record.

Enters: ids as the records have them. Leaves: text. Guaranteed: different (tenant, conversation), (tenant, user) and (tenant,
conversation, message) have different keys, as long as the tenant's name is one that `is_tenant` accepts.
"""

import re
from typing import Protocol
from urllib.parse import quote

DEFAULT_TENANT = "default"
_SHOWN = 40  # characters
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch  # what quoting would leave as it is; it is slow at finding out


class OfConversation(Protocol):
    """A record that is about a conversation."""

    @property
    def tenant_id(self) -> str: ...

    @property
    def conversation_id(self) -> str: ...


def is_tenant(text: str) -> bool:
    """Whether it can be a tenant's name: 1 to 64 of letters, digits, point, dash, underscore; so no slash."""
    return _TENANT.fullmatch(text) is not None


def conversation_key(tenant_id: str, conversation_id: str) -> str:
    """Key of every topic and table about a conversation: it decides the home partition (schemas/partitions.py)."""
    return _of_tenant(tenant_id, conversation_id)


def key_of(record: OfConversation) -> bytes:
    """The conversation_key of a record, as Kafka takes it."""
    return _of_tenant(record.tenant_id, record.conversation_id).encode()


def contact_key(tenant_id: str, user_id: str) -> str:
    """Key of the topic `contacts`."""
    return _of_tenant(tenant_id, user_id)


def message_key(tenant_id: str, conversation_id: str, message_id: str) -> str:
    """Key of the table `seen`: the three, each percent-quoted where it needs it, so that no id can pass for two."""
    return "/".join((quoted(tenant_id), quoted(conversation_id), quoted(message_id)))


def provider_message_key(channel: str, account: str, provider_message_id: str) -> str:
    """Key of the topics `bindings` and `receipts`: both sides of the join meet in one partition by it."""
    return f"{channel}:{account}:{provider_message_id}"


def quoted(text: str) -> str:
    """Percent-quoted, down to what every URL and every separator leaves alone."""
    return text if _PLAIN(text) else quote(text, safe="")


def shown(key: bytes | None) -> str:
    """A key as a sentence shows it, whatever its bytes and its length are."""
    text = (key or b"").decode(errors="replace")
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r} and {len(text) - _SHOWN} characters more"


def _of_tenant(tenant_id: str, id_: str) -> str:
    """The id alone for tenant `default`, so that who has one tenant keys as ever; never for an id that holds a slash, which could be
    somebody else's."""
    return id_ if tenant_id == DEFAULT_TENANT and "/" not in id_ else f"{tenant_id}/{id_}"
