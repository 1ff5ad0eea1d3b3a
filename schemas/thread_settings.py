"""The settings of receipts and inbound messages (a part of schemas/settings.py): how long stage match waits and remembers."""

from pydantic import Field

from schemas.receipt_settings import ReceiptSettings


class ThreadSettings(ReceiptSettings):
    """CHAT4ALL_THREAD_..., CHAT4ALL_REPLY_... and CHAT4ALL_ORPHAN_DAYS, besides the settings of receipts."""

    # inbound messages (docs/guarantees.md)
    thread_window_hours: float = Field(
        72.0,
        gt=0,
        le=8760,
        description="A message that answers none belongs to the person's latest conversation, if that had a message within so many hours.",
    )
    reply_wait_seconds: float = Field(
        5.0,
        ge=0,
        le=300,
        description="How long a reply waits for the binding of the message it answers, in seconds; later messages of the person wait too.",
    )
    orphan_days: float = Field(
        7.0, gt=0, description="How long a receipt that found no delivery is kept in table orphans, in days."
    )
