"""The servers of the stack by name, and which of them the environment replaces.

Enters: the CHAT4ALL_*_URL settings of the environment. Leaves: how to make each Service. Guaranteed: a server whose URL is set in
the environment is not started; the state file of a running stack is not asked, or the stack would replace itself.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from schemas.settings import Settings
from stack import clickhouse, kafka, postgres, s3, valkey
from stack.service import Service

# In the order they are shown; each is started when its setting <name>_url is empty.
SERVERS: dict[str, Callable[[Path], Service]] = {
    "kafka": kafka.service,
    "postgres": postgres.service,
    "valkey": valkey.service,
    "clickhouse": clickhouse.service,
    "s3": s3.service,
}


class EnvironmentSettings(Settings):
    """The settings the environment gives, without those of a running stack."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the same
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings,)


def replaced() -> dict[str, str]:
    """The servers that already exist somewhere: name -> URL from the environment."""
    given = EnvironmentSettings()
    urls = {name: str(getattr(given, f"{name}_url")) for name in SERVERS}
    return {name: url for name, url in urls.items() if url}
