"""The command line of a child process that ends with its parent: stack/child.py as a script, and the program it becomes."""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WRAPPER = Path(__file__).with_name("child.py")


class ServiceFailed(Exception):
    """A server did not start, or ended. The sentence names it and its log, and quotes the log's last lines."""


def wrapped(
    steps: Sequence[Sequence[str]],
    *,
    death_signal: int = signal.SIGKILL,
    unprivileged: Mapping[str, Any] | None = None,
) -> list[str]:
    """The command line that runs all but the last of `steps` to their end, and then becomes the last one. `death_signal` is what the kernel
    sends it when this process ends; `unprivileged` says how it gives up root (stack/child.py)."""
    task = {
        "parent": os.getpid(),
        "death_signal": int(death_signal),
        "unprivileged": unprivileged,
        "steps": [list(step) for step in steps],
    }
    return [sys.executable, "-I", str(WRAPPER), json.dumps(task)]
