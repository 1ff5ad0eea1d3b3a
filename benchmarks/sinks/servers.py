"""A database server of its own for a benchmark, and the CPU that it used.

Enters: the name of a server of stack/. Leaves: its URL and its process, in a new folder; at the end it is stopped and its data are deleted.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from stack.servers import SERVERS
from stack.service import Child


@contextmanager
def server(name: str) -> Iterator[tuple[str, psutil.Process]]:
    """Starts a server; yields its URL and its first process."""
    folder = Path(tempfile.mkdtemp(prefix="bench-sinks-"))
    folder.chmod(0o755)  # under root, PostgreSQL runs as another user and must reach its programs in this folder
    child = Child(SERVERS[name](folder / name))
    before = set(psutil.Process().children())
    try:
        child.start()
        child.wait()
        (process,) = set(psutil.Process().children()) - before
        yield child.service.settings[f"{name}_url"], process
    finally:
        child.stop()
        shutil.rmtree(folder, ignore_errors=True)


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU so far, with all descendants."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))
