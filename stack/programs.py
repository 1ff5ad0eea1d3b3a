"""Programs of wheels for a server that gives up root.

Enters: files or folders as they are installed. Leaves: where the server finds them. Guaranteed: everybody may read and run what is
returned; where that is not so, as when root installs with umask 027, it is a copy in the stack's folder (41 MB of PostgreSQL). The same
where they lie below a folder that others cannot pass, and root may make no mount namespace that opens a way (a container's /root).
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
    """Each of `installed`, or its copy below `folder`; all or none are copies, for they may look for each other."""
    found = [path.resolve() for path in installed]
    if os.geteuid() != 0 or (all(map(_is_open, found)) and _have_a_way(found)):
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
    """Where this project, its libraries and its Python are, for a program of ours that gives up root itself."""
    found = [Path(each) for each in (sys.base_prefix, sys.base_exec_prefix, sys.prefix, *sys.path) if each]
    return sorted({each for each in found if each.is_dir()} | {Path(__file__).parent.parent})


def _have_a_way(found: Iterable[Path]) -> bool:
    user = pwd.getpwnam("nobody").pw_uid
    return not any(unprivileged.closed_above(path, user) for path in found) or unprivileged.may_cover()


def _is_open(path: Path) -> bool:
    """Whether everybody may read it, and look into all its folders."""
    members = [path, *path.rglob("*")] if path.is_dir() else [path]
    return all(_grants(member) for member in members)


def _grants(member: Path) -> bool:
    mode = member.lstat().st_mode
    needed = READ | (RUN if member.is_dir() or mode & 0o100 else 0)
    return member.is_symlink() or mode & needed == needed
