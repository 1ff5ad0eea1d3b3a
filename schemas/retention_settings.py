"""The settings of retention in the databases (a part of schemas/settings.py).

In: the environment, through Settings. Out: fields. Guaranteed: a wrong value is refused at start, with a sentence.
"""

from pydantic import Field, field_validator

from schemas.retention_days import LONGEST_DAYS, tenant_days
from schemas.thread_settings import ThreadSettings


class RetentionSettings(ThreadSettings):
    """CHAT4ALL_RETENTION_DAYS and CHAT4ALL_TENANT_RETENTION, besides the settings of inbound messages."""

    retention_days: int = Field(
        0,
        ge=0,
        le=LONGEST_DAYS,
        description="How long the databases keep what is about a message after its acceptance, in days; `chat4all retention` deletes. "
        "0: PostgreSQL for ever, ClickHouse 400 days.",
    )
    tenant_retention: str = Field(
        "", description="Other retention of single tenants, as tenant=days, several separated by commas."
    )

    @field_validator("tenant_retention")
    @classmethod
    def _tenant_retention_is_valid(cls, text: str) -> str:
        tenant_days(text)
        return text
