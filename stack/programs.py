"""Programs of wheels for a server that gives up root.

Enters: files or folders as they are installed. Leaves: where the server finds them. Guaranteed: everybody may read and run what is
returned; where that is not so, as when root installs with umask 027, it is a copy in the stack's folder (41 MB of PostgreSQL).
"""

import os
import shutil
from pathlib import Path

READ, RUN = 0o004, 0o001


def reachable(folder: Path, *installed: Path) -> list[Path]:
    """Each of `installed`, or its copy below `folder`; all or none are copies, for they may look for each other."""
    found = [path.resolve() for path in installed]
    if os.geteuid() != 0 or all(map(_is_open, found)):
        return found
    copies = [folder / "programs" / path.name for path in found]
    for path, copy in zip(found, copies, strict=True):
        if path.is_dir():
            shutil.copytree(path, copy, symlinks=True, dirs_exist_ok=True)
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
    for path in (folder / "programs").rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755)
    return copies


def _is_open(path: Path) -> bool:
    """Whether everybody may read it, and look into all its folders."""
    members = [path, *path.rglob("*")] if path.is_dir() else [path]
    return all(_grants(member) for member in members)


def _grants(member: Path) -> bool:
    mode = member.lstat().st_mode
    needed = READ | (RUN if member.is_dir() or mode & 0o100 else 0)
    return member.is_symlink() or mode & needed == needed
