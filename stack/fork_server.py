"""A process that imports modules once and then forks programs that need them.

`python -m stack.fork_server MODULE[,MODULE...]`. Enters: a line of JSON for each program on standard input (`Start`). Leaves: a line of
JSON on standard output when a program begins, and when one ends. Guaranteed: a program has its arguments, environment, log and standard
input as if `python -m` had started it, and a session of its own. It ends with this process, and this process ends when standard input is
closed. Only the loop below runs here, so there is one thread, which fork needs.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass, field

from stack.unprivileged import LIBC, die_with_parent

PR_SET_NAME = 15
STDIN, STDOUT = 0, 1


@dataclass(frozen=True, kw_only=True)
class Start:
    """One program to start. `argv` is a module and its arguments; `name` is its name in `top` and `ps -o comm`."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(repr=False)
    log: str
    death_signal: int

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def main() -> None:
    for name in sys.argv[1].split(","):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector then skips the shared objects, so that their memory pages stay shared
    start = serve()
    if start is not None:
        sys.argv = list(start.argv)
        # a package's program runs anew below; runpy warns of one that was imported already
        sys.modules.pop(f"{start.argv[0]}.__main__", None)
        runpy.run_module(start.argv[0], run_name="__main__", alter_sys=True)


def serve() -> Start | None:
    """Forks programs and reports their ends. Returns in each child with the program to run, and in this process with None at the end of
    standard input."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    buffered = b""
    with selectors.DefaultSelector() as ready:
        ready.register(STDIN, selectors.EVENT_READ)
        ready.register(read, selectors.EVENT_READ)
        while True:
            found = [key.fd for key, _ in ready.select()]
            if read in found:
                os.read(read, 1024)
                _report_ends()
            if STDIN in found:
                piece = os.read(STDIN, 65536)
                if not piece:
                    return None
                *lines, buffered = (buffered + piece).split(b"\n")
                for line in lines:
                    start = Start(**json.loads(line))
                    if _forked(start):
                        ready.close()
                        os.close(read)
                        os.close(write)
                        return start


def _forked(start: Start) -> bool:
    """Forks. Returns True in the child, which then has the session, log, input and environment of the program; False in this process."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        _report({"began": pid})
        return False
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    die_with_parent(parent, start.death_signal)
    if LIBC is not None:
        LIBC.prctl(PR_SET_NAME, ctypes.c_char_p(start.name.encode()[:15]), 0, 0, 0)
    log = os.open(start.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, STDIN), (log, STDOUT), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
    os.environ.clear()
    os.environ.update(start.env)
    tempfile.tempdir = None  # it may come from the previous environment
    return True


def _report_ends() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _report({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _report(news: dict[str, int]) -> None:
    os.write(STDOUT, json.dumps(news).encode() + b"\n")


if __name__ == "__main__":
    main()
