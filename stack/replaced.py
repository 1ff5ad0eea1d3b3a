"""Which servers of the stack the environment replaces.

Enters: the CHAT4ALL_*_URL settings of the environment. Leaves: name -> URL. Guaranteed: the state file of a running stack is not read;
otherwise the stack would replace itself.
"""

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from schemas.environment import SecretFiles
from schemas.settings import Settings
from stack.servers import SERVERS


class EnvironmentSettings(Settings):
    """The settings of the environment, without those of a running stack."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic-settings' signature
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (SecretFiles(settings_cls), env_settings)


def replaced() -> dict[str, str]:
    """The servers that exist already and are not to be started: name -> URL from the environment."""
    given = EnvironmentSettings()
    urls = {name: str(getattr(given, f"{name}_url")) for name in SERVERS}
    return {name: url for name, url in urls.items() if url}
