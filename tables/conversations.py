"""Table `conversations`: who belongs to a conversation, from the topic of the same name. Key: the conversation's (schemas/keys.py)."""

from dataclasses import dataclass

from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class Members:
    tenant_id: str
    user_ids: tuple[str, ...]
    updated_at: int  # Unix milliseconds, by the application's clock


CONVERSATIONS = JsonLayout("conversations", Members, keyed_by_record=True)
