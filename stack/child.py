"""A script that becomes a server which ends with its parent and has no more rights than it needs.

Enters: one JSON argument (parent pid, parent-death signal, steps, and what stack/unprivileged.py needs to give up root, or null).
Leaves: the last step, exec'ed in this process, after the earlier steps have run in order and succeeded. Guaranteed: when the parent ends
in any way, SIGKILL included, the kernel sends this process the parent-death signal (Linux). It runs by its path and imports only the
standard library, so that it takes about 20 ms. It is a program of its own because PR_SET_PDEATHSIG must be set after the fork and after
any setuid.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from stack import unprivileged  # python -I does not add the folder of the package to sys.path


def give_up_root(task: dict[str, Any]) -> None:
    """Becomes the user of the task. A server with `drops_itself` does that later, when it has read its own code; until then root must be
    able to read it."""
    owned, reached, ours = ([Path(path) for path in task[name]] for name in ("owned", "reached", "ours"))
    itself = task["drops_itself"]
    unprivileged.prepare(task["user"], owned, [] if itself else reached, reached if itself else [], ours)
    unprivileged.gain_nothing()  # for all threads of the later program; drop() covers only the thread that calls it
    if not itself:
        unprivileged.drop(task["user"])
        os.chdir(owned[0])  # the user may not be able to read the current folder


def main() -> None:
    task = json.loads(sys.argv[1])
    if task["unprivileged"] is not None:
        try:
            give_up_root(task["unprivileged"])
        except (unprivileged.StillPrivileged, OSError) as error:
            sys.exit(str(error))
    unprivileged.die_with_parent(task["parent"], task["death_signal"])
    here = os.getpid()
    for step in task["steps"][:-1]:
        done = subprocess.run(
            step,
            check=False,
            stdin=subprocess.DEVNULL,
            # Safe: this process has one thread.
            preexec_fn=lambda: unprivileged.die_with_parent(here, task["death_signal"]),
        )
        if done.returncode:
            print(f"{step[0]} ended with {done.returncode}", file=sys.stderr, flush=True)  # noqa: T201  # stderr is the log file
            sys.exit(done.returncode if done.returncode > 0 else 1)
    server = task["steps"][-1]
    os.execv(server[0], server)  # noqa: S606  # this process becomes the server


if __name__ == "__main__":
    main()
