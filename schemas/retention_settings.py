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
        description="How long PostgreSQL and ClickHouse keep what is about a message after it was accepted, in days; 0: for ever. "
        "`chat4all retention` deletes.",
    )
    tenant_retention: str = Field(
        "", description="Other retention of single tenants, as tenant=days, several separated by commas."
    )

    @field_validator("tenant_retention")
    @classmethod
    def _tenant_retention_is_valid(cls, text: str) -> str:
        tenant_days(text)
        return text
