"""Gives up root, for a server of a stack that root started.

Enters: a user id, folders that the user gets, folders that it must be able to reach. Leaves: this process as that user. Guaranteed: no
capability is left (effective, permitted, inheritable, ambient, bounding) and none can be gained again (no_new_privs), so that SQL that
reads files can read only what every user may read. On Linux; elsewhere only the user changes. Only the standard library is used, because
stack/child.py is a script.

A checkout or a virtualenv may be below a folder that the user cannot enter, such as /root; the stack's own folder is one too. Then this
process gets its own mount namespace, in which an empty folder covers each closed folder and contains only what is needed, under its usual
path. The namespace ends with the process. Where root may not make one (a container without CAP_SYS_ADMIN), other users get the right to
enter the stack's own folders (0711), and another closed folder stops the start with a sentence.
"""

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES = 64
PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x00020000
O_PATH = 0x200000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
# Loaded before any fork, because a forked child must not import.
LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class StillPrivileged(Exception):
    """The process still has rights it must not have, or the user could not reach what it needs. One sentence says why."""


def prepare(
    user: int, owned: Sequence[Path], reached: Sequence[Path], seen: Sequence[Path], ours: Sequence[Path]
) -> None:
    """Call it as root, before `drop`. Makes the user the owner of `owned`, and makes sure that it can reach them and `reached`. `seen` stay
    visible, at least for root. `ours` are folders that other users may get the right to enter. Raises StillPrivileged or OSError."""
    for folder in owned:
        _hand_over(folder, user)
    wanted, seen = ([folder.resolve() for folder in folders] for folders in ((*owned, *reached), seen))
    if not any(closed_above(folder, user) for folder in (*wanted, *seen)):
        return
    if _has_own_namespace():
        _open_paths((*wanted, *seen), user)
        return
    for folder in ours:
        folder.chmod(folder.stat().st_mode | 0o111)
    for folder in wanted:
        if above := closed_above(folder, user):
            raise StillPrivileged(
                f"user {user} cannot enter {above} to reach {folder}, and root may not make a mount namespace here:"
                f" run `chmod o+x {above}`, or start the stack elsewhere or as another user"
            )


def closed_above(path: Path, user: int) -> Path | None:
    """The topmost folder above `path` that this user cannot enter."""
    for folder in reversed(path.parents):
        found = folder.stat()
        if not found.st_mode & (0o100 if found.st_uid == user else 0o001):
            return folder
    return None


def may_cover() -> bool:
    """Whether root may make mount namespaces here. Another process tries it."""
    return subprocess.run([sys.executable, "-I", __file__], check=False).returncode == 0


def gain_nothing() -> None:
    """No program that this process becomes can give it more rights, by setuid or file capabilities."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop(user: int) -> None:
    """Becomes the user, with no capability, for good. Raises StillPrivileged when the kernel left any."""
    gain_nothing()
    if LIBC is not None:
        for capability in range(CAPABILITIES):
            # Fails without CAP_SETPCAP; the other sets are cleared anyway.
            LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if LIBC is not None:
        header = ctypes.create_string_buffer(struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0))
        LIBC.capset(header, ctypes.create_string_buffer(struct.pack("=6I", 0, 0, 0, 0, 0, 0)))
        held = ctypes.create_string_buffer(struct.calcsize("=6I"))
        if LIBC.capget(header, held) or any(held.raw):
            raise StillPrivileged("the kernel left a capability with a server that must have none")


def die_with_parent(parent: int, signal_number: int) -> None:
    """Lets the kernel send `signal_number` to this process when the parent ends. A later change of user would reset that. Exits at once
    if the parent has ended already."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _hand_over(folder: Path, user: int) -> None:
    """Makes the user the owner of the folder and its content. If the user owns the folder already, nothing is done: the user may have
    put any link into it."""
    if folder.stat().st_uid == user:
        return
    for _, folders, files, here in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, user, user, dir_fd=here, follow_symlinks=False)
        os.fchown(here, user, user)


def _has_own_namespace() -> bool:
    """Gives this process its own mount namespace, so that no other process sees its mounts. False where root may not do that."""
    if LIBC is None or LIBC.unshare(CLONE_NEWNS):
        return False
    try:
        _mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
    except PermissionError:  # an AppArmor profile, as in containers
        return False
    return True


def _open_paths(wanted: Iterable[Path], user: int) -> None:
    """In this process's own namespace: covers each closed folder above `wanted`, and mounts `wanted` in the covers."""
    held = {folder: os.open(folder, O_PATH | os.O_DIRECTORY) for folder in wanted}
    before = os.umask(0o022)  # other users must be able to enter the folders in the covers
    for folder in wanted:
        while above := closed_above(folder, user):
            _cover(above, held)
    os.umask(before)
    for descriptor in held.values():
        os.close(descriptor)


def _cover(closed: Path, held: Mapping[Path, int]) -> None:
    """Mounts an empty folder over a closed one, and in it, under their paths, the folders of `held` that are in it (or its whole
    content, if it is in `held` itself)."""
    _mount("none", closed, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for folder, descriptor in sorted(held.items()):  # a folder before those in it
        source = f"/proc/self/fd/{descriptor}"
        if folder == closed:
            for entry in Path(source).iterdir():
                if entry.is_symlink():
                    (closed / entry.name).symlink_to(entry.readlink())
                elif entry.is_dir() or entry.is_file():
                    _show(str(entry), closed / entry.name, is_folder=entry.is_dir())
        elif closed in folder.parents and not folder.exists():
            _show(source, folder, is_folder=True)


def _show(source: str, target: Path, *, is_folder: bool) -> None:
    """Mounts the file or folder `source` at `target` as well."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if is_folder:
        target.mkdir(mode=0o755)
    else:
        target.touch()
    _mount(source, target, "", MS_BIND | MS_REC)


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    texts = [text.encode() or None for text in (source, str(target), kind)]
    if LIBC is not None and LIBC.mount(*texts, ctypes.c_ulong(flags), options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


if __name__ == "__main__":
    sys.exit(0 if _has_own_namespace() else 1)
