"""The keys of topics that are not a field of their record."""


def provider_message_key(channel: str, account: str, provider_message_id: str) -> str:
    """Key of the topics `bindings` and `receipts`: both sides of the join meet in one partition by it."""
    return f"{channel}:{account}:{provider_message_id}"
