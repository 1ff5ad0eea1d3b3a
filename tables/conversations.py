"""Table `conversations` of stage route: the members of a conversation, from the topic of the same name. Key: the conversation's key."""

from dataclasses import dataclass

from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class Members:
    """The members of one conversation, as the application last wrote them."""

    tenant_id: str
    user_ids: tuple[str, ...]
    updated_at: int  # Unix milliseconds, by the application's clock


CONVERSATIONS = JsonLayout("conversations", Members, keyed_by_record=True)
