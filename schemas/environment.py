"""Where settings come from: the environment, files that it names, and the state file of a running development stack.

Enters: CHAT4ALL_<NAME>, or for a secret CHAT4ALL_<NAME>_FILE, the name of a file of one line. Leaves: the sources for pydantic-settings,
and the environment of a child process that must not get our settings. Guaranteed: errors about a file that cannot be read, or about a
secret that is given twice, contain their names and never their content. Reading files blocks for a moment.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from schemas.records import CHANNELS
from schemas.secret_masking import MaskedText

PREFIX = "CHAT4ALL_"
OF_FILE = "_file"
_OURS = (PREFIX, "VIRTUAL_ENV", "MAKE", "MFLAGS")
# Servers whose settings belong together: with another URL, none of the state file's settings of that server is used.
OF_A_SERVER = ("kafka", "postgres", "clickhouse", "valkey", "s3")


class Unreadable(str):
    """Takes the place of a secret whose file cannot be read, or that is given twice. The text is the error."""

    __slots__ = ()


def foreign(extra: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The environment of a child process without anything of ours (no settings, no virtualenv, no make), with `extra` added."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)} | dict(extra)


def state_file() -> Path:
    """The state file of the development stack: CHAT4ALL_STATE, else .chat4all/<CHAT4ALL_STACK or dev>/state.json."""
    stack = os.environ.get("CHAT4ALL_STACK", "dev")
    return Path(os.environ.get("CHAT4ALL_STATE") or Path(".chat4all") / stack / "state.json")


def choose_state(path: Path) -> None:
    """Selects the stack of this state file, for this process and its child processes: it sets CHAT4ALL_STATE."""
    os.environ["CHAT4ALL_STATE"] = str(path)


def of_channel(name: str) -> bool:
    """Whether a setting belongs to a channel, by its name: the part before the first underscore is the channel."""
    return name.partition("_")[0] in CHANNELS


def secret_fields(settings: type[BaseSettings]) -> set[str]:
    """Names of the fields whose value may come from a file: secrets, and URLs that may contain a password."""
    return {
        name
        for name, field in settings.model_fields.items()
        if field.annotation is SecretStr or name in {"postgres_url", "clickhouse_url", "valkey_url"}
    }


class _Source(PydanticBaseSettingsSource):
    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002  # the base class's signature
        return None, field_name, False


class SecretFiles(_Source):
    """Reads CHAT4ALL_<NAME>_FILE, for each secret and for each setting of a channel without a field."""

    def __call__(self) -> dict[str, Any]:
        return files_read(self.settings_cls, _named(), PREFIX)


class OfChannels(_Source):
    """Reads CHAT4ALL_<CHANNEL>_<NAME> without a field, so that a new channel works before it has fields."""

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        return {
            name: value
            for name, value in _named().items()
            if of_channel(name) and name not in fields and not name.endswith(OF_FILE)
        }


class StateFile(_Source):
    """Reads the settings of the running development stack: the object `settings` in its state file."""

    def __call__(self) -> dict[str, Any]:
        try:
            state = json.loads(state_file().read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        settings = state.get("settings", {}) if isinstance(state, dict) else {}
        if not isinstance(settings, dict):
            return {}
        given = _named()
        elsewhere = tuple(
            f"{server}_" for server in OF_A_SERVER if given.get(f"{server}_url") or given.get(f"{server}_url_file")
        )
        kept = (
            {name: value for name, value in settings.items() if not name.startswith(elsewhere)}
            if elsewhere
            else settings
        )
        return dict(kept) | files_read(self.settings_cls, kept, "the stack's ")


def files_read(settings: type[BaseSettings], given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The secrets that `given` names a file for, with their values. An error takes the value's place, as Unreadable; nothing is raised."""
    secrets = secret_fields(settings)
    found: dict[str, Any] = {}
    for full, file in given.items():
        name = full.removesuffix(OF_FILE)
        is_known = name in settings.model_fields or of_channel(name)
        if name == full or full in settings.model_fields or not is_known or not file:
            continue
        shown = f"{prefix}{full.upper()}" if prefix == PREFIX else f"{prefix}{full}"
        plain = shown[: -len(OF_FILE)]
        if name in settings.model_fields and name not in secrets:
            found[name] = Unreadable(f"{shown}: only a secret is read from a file: set {plain}")
        elif given.get(name):
            found[name] = Unreadable(f"{shown} and {plain} are both set: set one of them")
        else:
            found[name] = _read(shown, Path(str(file)))
    return found


def _read(shown: str, file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig").rstrip("\r\n")  # some editors write a byte order mark first
    except OSError as error:
        return Unreadable(f"{shown}: {file} cannot be read: {error.strerror or type(error).__name__}")
    except UnicodeError:
        return Unreadable(f"{shown}: {file} is not text in UTF-8")
    if not text.strip():
        return Unreadable(f"{shown}: {file} is empty")
    if len(text.splitlines()) > 1:
        return Unreadable(f"{shown}: {file} has several lines, but a secret has one")
    return MaskedText(text)


def _named() -> dict[str, str]:
    """The settings in the environment, by their names in lower case."""
    return {name[len(PREFIX) :].lower(): value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
