"""Files and folders that only their owner reads, whatever the umask says: state, logs, what a simulator was called with.

Enters: a path. Leaves: the folder with mode 0700, the file with mode 0600. Guaranteed: the mode is there from the first moment on;
folders that existed keep theirs.
"""

import os
from io import FileIO
from pathlib import Path

FOLDER, FILE = 0o700, 0o600
UMASK = 0o077


def make_folder(path: Path) -> Path:
    """Makes the folder and those above it that are missing."""
    for missing in [folder for folder in (*reversed(path.parents), path) if not folder.exists()]:
        missing.mkdir(mode=FOLDER, exist_ok=True)
    return path


def append_to(path: Path) -> FileIO:
    """The file, open to write at its end; made if it is not there. A link in its place, or a file of somebody else, is refused with
    OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    file = os.fdopen(os.open(path, flags, FILE), "ab", buffering=0)
    try:
        os.fchmod(file.fileno(), FILE)  # one that an earlier release made may be open to others
    except OSError:
        file.close()
        raise
    return file


def write(path: Path, content: str | bytes) -> None:
    """The file with this and nothing else; text as UTF-8."""
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, FILE), "wb") as file:
        os.fchmod(file.fileno(), FILE)
        file.write(content.encode() if isinstance(content, str) else content)
