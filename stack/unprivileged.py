"""Gives up root: what a server of the stack does when root started the stack.

Enters: a user id, folders it shall own, folders it must be able to reach. Leaves: this process as that user. Guaranteed: no capability is
left (effective, permitted, inheritable, ambient, bounding) and none can be got again (no_new_privs), so SQL that reads files reads
only what everybody may read. Linux; elsewhere only the user changes. Nothing but the standard library: stack/child.py is a script.

A checkout or a virtualenv may lie below a folder the user cannot pass, such as /root; a stack's own folder is such a one. Then this
process gets a mount namespace of its own, in which an empty folder covers each of those, with only what is needed in it, under its
usual name. The namespace ends with the process. Where root may make none (a container without CAP_SYS_ADMIN), the stack's own
folders are made passable (0711), and a foreign one that is not ends the start with a sentence.
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
# Loaded before any fork: a forked child must not import.
LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class StillPrivileged(Exception):
    """This process could not give up what it must not keep, or the user could not work afterwards; one sentence says why."""


def prepare(
    user: int, owned: Sequence[Path], reached: Sequence[Path], seen: Sequence[Path], ours: Sequence[Path]
) -> None:
    """As root, before `drop`: hands `owned` over, and sees to it that the user gets to them and to `reached`. `seen` stay in sight, of root
    at least; `ours` are folders that may be made passable for everybody."""
    for folder in owned:
        _hand_over(folder, user)
    wanted, seen = ([folder.resolve() for folder in folders] for folders in ((*owned, *reached), seen))
    if not any(closed_above(folder, user) for folder in (*wanted, *seen)):
        return
    if _is_alone():
        _open_ways((*wanted, *seen), user)
        return
    for folder in ours:
        folder.chmod(folder.stat().st_mode | 0o111)
    for folder in wanted:
        if above := closed_above(folder, user):
            raise StillPrivileged(
                f"user {user} cannot pass {above} to reach {folder}, and this root may make no mount namespace:"
                f" run `chmod o+x {above}`, or start the stack elsewhere or as another user"
            )


def closed_above(path: Path, user: int) -> Path | None:
    """The topmost folder above `path` that this user cannot pass."""
    for folder in reversed(path.parents):
        found = folder.stat()
        if not found.st_mode & (0o100 if found.st_uid == user else 0o001):
            return folder
    return None


def may_cover() -> bool:
    """Whether root may make mount namespaces here; tried by a process of its own."""
    return subprocess.run([sys.executable, "-I", __file__], check=False).returncode == 0


def gain_nothing() -> None:
    """No program that this process becomes gives it a right it has not: no setuid, no file capability."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop(user: int) -> None:
    """Becomes the user, with no capability, for good. Raises StillPrivileged when the kernel left any."""
    gain_nothing()
    if LIBC is not None:
        for capability in range(CAPABILITIES):
            LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused without CAP_SETPCAP; those below go all the same
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
    """Asks the kernel for `signal_number` at the parent's end, which a change of user makes it forget; leaves at once when the parent has
    already gone."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _hand_over(folder: Path, user: int) -> None:
    """Makes the folder and what is in it the user's. What is the user's already is left alone: in there, names may be anything."""
    if folder.stat().st_uid == user:
        return
    for _, folders, files, here in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, user, user, dir_fd=here, follow_symlinks=False)
        os.fchown(here, user, user)


def _is_alone() -> bool:
    """Gives this process a mount namespace of its own, where nobody else sees what it mounts; False where root may not."""
    if LIBC is None or LIBC.unshare(CLONE_NEWNS):
        return False
    try:
        _mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
    except PermissionError:  # a profile of AppArmor, as containers have
        return False
    return True


def _open_ways(wanted: Iterable[Path], user: int) -> None:
    """In this process's own namespace: covers what is closed above each of `wanted`, and shows these in the covers."""
    held = {folder: os.open(folder, O_PATH | os.O_DIRECTORY) for folder in wanted}
    before = os.umask(0o022)  # what is made in the covers is a way for somebody else
    for folder in wanted:
        while above := closed_above(folder, user):
            _cover(above, held)
    os.umask(before)
    for descriptor in held.values():
        os.close(descriptor)


def _cover(closed: Path, held: Mapping[Path, int]) -> None:
    """An empty folder over a closed one; in it, under their names, what is held of it: all of itself, or some below."""
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
    """The file or folder `source` as `target` too."""
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
    sys.exit(0 if _is_alone() else 1)
