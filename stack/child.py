"""Becomes a server that cannot outlive its parent, and that has no more rights than it needs.

Enters: one JSON argument (parent pid, death signal, steps, and what stack/unprivileged.py needs to give up root, or null). Leaves: the
last step, exec'ed in this process, after the earlier ones have run in order and succeeded. Guaranteed: when the parent ends in any
way, SIGKILL included, the kernel sends this process the death signal (Linux). Run as a plain script by path, with nothing imported but
the standard library, so that it costs about 20 ms. It is a program of its own because PR_SET_PDEATHSIG must be set after the fork and
after any setuid.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from stack import unprivileged  # a script run with -I has no path to its own package


def give_up_root(task: dict[str, Any]) -> None:
    """Becomes the user of the task, unless the server does that itself when it has read its own code: then that is only to be seen."""
    owned, reached, ours = ([Path(path) for path in task[name]] for name in ("owned", "reached", "ours"))
    itself = task["drops_itself"]
    unprivileged.prepare(task["user"], owned, [] if itself else reached, reached if itself else [], ours)
    unprivileged.gain_nothing()  # in all threads it will have; drop() is for the one that calls it
    if not itself:
        unprivileged.drop(task["user"])
        os.chdir(owned[0])  # where it was, it may not be able to look


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
            preexec_fn=lambda: unprivileged.die_with_parent(here, task["death_signal"]),  # safe: one thread
        )
        if done.returncode:
            print(f"{step[0]} ended with {done.returncode}", file=sys.stderr, flush=True)  # noqa: T201  # goes to the log file
            sys.exit(done.returncode if done.returncode > 0 else 1)
    server = task["steps"][-1]
    os.execv(server[0], server)  # noqa: S606  # replacing this process by the server is its purpose


if __name__ == "__main__":
    main()
