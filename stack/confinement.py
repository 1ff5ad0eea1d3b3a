"""Limits what a process may open, with the kernel's Landlock (Linux 5.19 or newer).

Enters: files and folders to read, folders to write to. Leaves: this process and all that it starts can open nothing else, run programs only
from what they may read, and open no TCP connection (if the kernel supports that). Guaranteed: it cannot be undone, and holds for every
thread that is started later. It does not hold for threads that run already, nor for open files. On other systems nothing happens.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

CREATE, ADD, RESTRICT = 444, 445, 446  # numbers of system calls, the same on every architecture
VERSION = 1  # returns the version of the interface, and makes no ruleset
BENEATH = 1
REFER_SINCE, TRUNCATE_SINCE, CONNECT_SINCE = 2, 3, 4  # version 1 does not allow to move a file to another folder
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (1 << 14) - 1  # all rights up to REFER
CONNECT_TCP = 1 << 1


def confine(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Confines this process. Returns whether the kernel did it. Call it while there is one thread, with no_new_privs set. Paths that do not
    exist are skipped. Raises OSError when the kernel refuses a rule."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE, None, ctypes.c_size_t(0), VERSION)
    if version < REFER_SINCE:
        return False
    truncate = TRUNCATE if version >= TRUNCATE_SINCE else 0
    handled = struct.pack("=QQ", WRITE | truncate, CONNECT_TCP if version >= CONNECT_SINCE else 0)
    ruleset = libc.syscall(CREATE, handled, ctypes.c_size_t(16 if version >= CONNECT_SINCE else 8), 0)
    if ruleset < 0:
        return False
    rights = [*((path, READ) for path in readable), *((path, WRITE | truncate) for path in writable)]
    for path, allowed in rights:
        _allow(libc, ruleset, path, allowed)
    done: bool = libc.syscall(RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return done


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, allowed: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rule = struct.pack("=Qi", allowed if path.is_dir() else allowed & OF_FILES, place)
    if libc.syscall(ADD, ruleset, BENEATH, rule, 0):
        raise OSError(ctypes.get_errno(), "Landlock refuses a rule for it", str(path))
    os.close(place)
