"""The file that describes a running stack: <folder>/state.json, written by the supervisor, read by all commands.

Enters: a StackState. Leaves: the file; schemas/settings.py reads its object `settings`. Guaranteed: the file is replaced in one step, so a
reader sees the old one or the new one; only its owner can read it, because it holds the secrets of the stack.
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
    # For a program with several URLs: name -> URL.
    parts: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> str:
        """Its URLs on one line, passwords masked."""
        return masked(self.full_address)

    @property
    def full_address(self) -> str:
        """Its URLs on one line, with passwords."""
        return ", ".join(f"{part} {url}" for part, url in self.parts.items()) or self.url


@dataclass
class StackState:
    """The stack, as its supervisor described it last."""

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
    """The last description of the stack, which may be dead by now; None when there is none or it cannot be read. Never raises."""
    try:
        fields = json.loads(state_path(folder).read_text(encoding="utf-8"))
        return StackState(**{**fields, "services": [ServiceState(**service) for service in fields["services"]]})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def lock(folder: Path) -> int | None:
    """Locks the stack of this folder and returns the file descriptor that holds the lock; None when another process holds it. Does not
    wait. The lock lasts as long as the descriptor is open in any process.

    The kernel releases the lock when its holder ends in any way; so a state file without a lock belongs to a dead supervisor.
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
    """Whether the supervisor of this folder runs: it holds the lock."""
    if not (folder / "lock").exists():
        return False
    descriptor = lock(folder)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
