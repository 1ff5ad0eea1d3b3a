"""The settings of opting out (a part of schemas/settings.py): words, reasons and confirmations (docs/opt-out.md)."""

from pydantic import Field, field_validator

from schemas.opt_out_policies import policies_in
from schemas.retention_settings import RetentionSettings


class OptOutSettings(RetentionSettings):
    """CHAT4ALL_OPT_OUT and CHAT4ALL_NOT_RECEIVING_DAYS, with those of threads."""

    # opting out (docs/opt-out.md)
    opt_out: str = Field(
        "",
        description="For each tenant, JSON: the words that stop and start messages, what else stops them, and what confirms it; empty: "
        "the built-in words of all languages, without confirmation.",
    )
    not_receiving_days: float = Field(
        1.0,
        ge=0,
        le=365,
        description="How long nothing is sent to a person after the provider said that they cannot get messages, in days; 0: not at all.",
    )

    @field_validator("opt_out")
    @classmethod
    def _opt_out_is_valid(cls, text: str) -> str:
        policies_in(text)
        return text
