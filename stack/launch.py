"""The command line of a child that cannot outlive whoever starts it: stack/child.py as a script, with what it shall become."""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WRAPPER = Path(__file__).with_name("child.py")


class ServiceFailed(Exception):
    """A server that did not start, or ended; the sentence says which, where its log is and what it said last."""


def wrapped(
    steps: Sequence[Sequence[str]],
    *,
    death_signal: int = signal.SIGKILL,
    unprivileged: Mapping[str, Any] | None = None,
) -> list[str]:
    """Runs all but the last of `steps` to their end, then is the last one; `unprivileged` says how it gives up root."""
    task = {
        "parent": os.getpid(),
        "death_signal": int(death_signal),
        "unprivileged": unprivileged,
        "steps": [list(step) for step in steps],
    }
    return [sys.executable, "-I", str(WRAPPER), json.dumps(task)]
