"""The one file that says what runs: <folder>/state.json, written by the supervisor, read by everybody.

Enters: a State. Leaves: the file, whose object `settings` is what schemas/settings.py reads. Guaranteed: replaced in one step, so a
reader sees the old one or the new one; readable by its owner only, for it holds the secrets of the stack.
"""

import dataclasses
import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas import private_files
from schemas.secret_masking import masked

STARTING, READY, DEAD, EXTERNAL, FAILED = "starting", "ready", "dead", "external", "failed"


@dataclass
class ServiceState:
    """One row of `chat4all status`."""

    name: str
    url: str = field(repr=False)
    status: str  # starting, ready, dead or external
    pid: int = 0
    version: str = ""
    log: str = ""
    started_at: int = 0  # Unix milliseconds
    restarts: int = 0
    # Of a program that serves several things: what -> URL.
    parts: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> str:
        """Where people reach it, on one line, without a password."""
        return masked(self.full_address)

    @property
    def full_address(self) -> str:
        """The same with the password."""
        return ", ".join(f"{part} {url}" for part, url in self.parts.items()) or self.url


@dataclass
class StackState:
    """The stack as its supervisor last described it."""

    pid: int  # of the supervisor
    phase: str  # starting, ready or failed
    keep_data: bool
    error: str = ""
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    services: list[ServiceState] = field(default_factory=list)


def state_path(folder: Path) -> Path:
    return folder / "state.json"


def write_state(folder: Path, state: StackState) -> None:
    path = state_path(folder)
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(state), file, indent=1)
    draft.replace(path)


def read_state(folder: Path) -> StackState | None:
    """The last description, of a live or a dead stack; None when there is none."""
    try:
        fields = json.loads(state_path(folder).read_text(encoding="utf-8"))
        return StackState(**{**fields, "services": [ServiceState(**service) for service in fields["services"]]})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def lock(folder: Path) -> int | None:
    """Takes the stack of this folder; None when its supervisor lives. The file descriptor, while open anywhere, is the claim.

    A lock of the kernel ends with its holder, however it ends; so a state file without a lock is that of a dead supervisor.
    """
    private_files.make_folder(folder)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_running(folder: Path) -> bool:
    """Whether the supervisor of this folder lives."""
    if not (folder / "lock").exists():
        return False
    descriptor = lock(folder)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
