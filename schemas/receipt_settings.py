"""Settings about receipts: the part of schemas/settings.py that says how long they are awaited.

In: the environment, through Settings. Out: fields. Guaranteed: a wrong value is refused at start, with a sentence.
"""

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from schemas.stalled_times import stalled_times


class ReceiptSettings(BaseSettings):
    """The fields; Settings inherits them."""

    stalled_seconds: str = Field(
        "whatsapp=86400,internal=86400",
        description="When a delivery that is SENT counts as stalled, as channel=seconds[,...]; never on a channel that is not named.",
    )

    @field_validator("stalled_seconds")
    @classmethod
    def _stalled_seconds_are_valid(cls, text: str) -> str:
        stalled_times(text)
        return text
