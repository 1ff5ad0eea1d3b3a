"""Files and folders that only their owner can read, whatever the umask is: state, logs, requests to a simulator.

Enters: a path. Leaves: the folder with mode 0700, the file with mode 0600. Guaranteed: they have the mode from their creation on; folders
that existed before keep theirs. Every function blocks for a moment and raises OSError.
"""

import os
from io import FileIO
from pathlib import Path

FOLDER, FILE = 0o700, 0o600
UMASK = 0o077


def make_folder(path: Path) -> Path:
    """Makes the folder and its missing parents; returns its path."""
    for missing in [folder for folder in (*reversed(path.parents), path) if not folder.exists()]:
        missing.mkdir(mode=FOLDER, exist_ok=True)
    return path


def append_to(path: Path) -> FileIO:
    """Opens the file for writing at its end, and makes it if it is missing. Raises OSError for a symbolic link or a file of another
    user."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    file = os.fdopen(os.open(path, flags, FILE), "ab", buffering=0)
    try:
        os.fchmod(file.fileno(), FILE)  # an earlier release may have made the file readable for others
    except OSError:
        file.close()
        raise
    return file


def write(path: Path, content: str | bytes) -> None:
    """Writes the file with this content only; text as UTF-8. Raises OSError for a symbolic link or a file of another user."""
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, FILE), "wb") as file:
        os.fchmod(file.fileno(), FILE)
        file.write(content.encode() if isinstance(content, str) else content)
