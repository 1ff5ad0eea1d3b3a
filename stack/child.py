"""Becomes a server that cannot outlive its parent.

Enters: one JSON argument (parent pid, death signal, user id or null, owned folder, steps). Leaves: the last step, exec'ed in this
process, after the earlier ones have run in order and succeeded. Guaranteed: when the parent ends in any way, SIGKILL included, the
kernel sends this process the death signal (Linux). Run as a plain script by path, with nothing imported but the standard library,
so that it costs about 20 ms. It is a program of its own because PR_SET_PDEATHSIG must be set after the fork and after any setuid.
"""

import ctypes
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
LINUX_CAPABILITY_VERSION_3 = 0x20080522
LINUX = sys.platform == "linux"
# Loaded before any fork: a forked child must not import.
LIBC = ctypes.CDLL(None, use_errno=True) if LINUX else None


def die_with_parent(parent: int, signal_number: int) -> None:
    """Asks the kernel for `signal_number` at the parent's end; leaves at once when the parent has already gone."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def become(user: int, folder: Path) -> None:
    """Gives up root for `user`, who comes to own `folder`.

    PostgreSQL refuses to run as root. The one capability that is kept lets it pass through folders such as /root, where a
    checkout or a virtualenv may live; without it (a container that forbids it) those folders must be readable for everybody.
    """
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)
    if LIBC is not None:
        LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if LIBC is not None:
        bit = 1 << CAP_DAC_OVERRIDE
        header = ctypes.create_string_buffer(struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0))
        LIBC.capset(header, ctypes.create_string_buffer(struct.pack("=6I", bit, bit, bit, 0, 0, 0)))
        LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def main() -> None:
    task = json.loads(sys.argv[1])
    if task["user"] is not None:
        become(task["user"], Path(task["folder"]))
    die_with_parent(task["parent"], task["death_signal"])
    here = os.getpid()
    for step in task["steps"][:-1]:
        done = subprocess.run(
            step,
            check=False,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: die_with_parent(here, task["death_signal"]),  # safe: one thread
        )
        if done.returncode:
            print(f"{step[0]} ended with {done.returncode}", file=sys.stderr, flush=True)  # noqa: T201  # goes to the log file
            sys.exit(done.returncode if done.returncode > 0 else 1)
    server = task["steps"][-1]
    os.execv(server[0], server)  # noqa: S606  # replacing this process by the server is its purpose


if __name__ == "__main__":
    main()
