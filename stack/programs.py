"""Paths of installed programs for a server that gives up root.

Enters: installed files or folders. Leaves: paths that the server can use. Guaranteed: every user may read and run what is returned. If
the installed files do not allow that (root installed them with umask 027), the result is a copy in the stack's folder (41 MB for
PostgreSQL). It is also a copy if the files are below a folder that other users cannot enter, such as a container's /root, and root may not
make a mount namespace.
"""

import os
import pwd
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from stack import unprivileged

READ, RUN = 0o004, 0o001


def reachable(folder: Path, *installed: Path) -> list[Path]:
    """Each of `installed`, or its copy below `folder`. Either all or none are copies, because they may look for each other."""
    found = [path.resolve() for path in installed]
    if os.geteuid() != 0 or (all(map(_is_open, found)) and _can_reach(found)):
        return found
    copies = [folder / "programs" / path.name for path in found]
    for path, copy in zip(found, copies, strict=True):
        if path.is_dir():
            shutil.copytree(path, copy, symlinks=True, dirs_exist_ok=True)
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copy2(path, copy)
    for path in (folder / "programs").rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755)
    return copies


def own_code() -> list[Path]:
    """The folders of this project, its libraries and its Python, for a program of ours that gives up root itself."""
    found = [Path(each) for each in (sys.base_prefix, sys.base_exec_prefix, sys.prefix, *sys.path) if each]
    return sorted({each for each in found if each.is_dir()} | {Path(__file__).parent.parent})


def _can_reach(found: Iterable[Path]) -> bool:
    user = pwd.getpwnam("nobody").pw_uid
    return not any(unprivileged.closed_above(path, user) for path in found) or unprivileged.may_cover()


def _is_open(path: Path) -> bool:
    """Whether every user may read it, with all its folders and files."""
    members = [path, *path.rglob("*")] if path.is_dir() else [path]
    return all(_grants(member) for member in members)


def _grants(member: Path) -> bool:
    mode = member.lstat().st_mode
    needed = READ | (RUN if member.is_dir() or mode & 0o100 else 0)
    return member.is_symlink() or mode & needed == needed
