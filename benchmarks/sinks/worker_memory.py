"""Resident memory of the workers while they write as fast as they can.

Enters: a folder for a stack, a number of messages. Leaves: the most resident megabytes of each worker during a load without a pause. There
is no figure if the verdict of the load finds anything.
"""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from cli import stack
from cli.load import CHANNELS
from cli.load_run import LoadOptions, run_load
from pipelines.stages import WORKERS
from schemas.settings import use_state
from stack import control
from stack.state import read_state, state_path

LOOK_SECONDS = 0.2


def most_resident(folder: Path, messages: int) -> Mapping[str, float]:
    """Worker -> megabytes (10^6 bytes). Blocks for the whole run."""
    most: dict[str, float] = {}
    finished = threading.Event()
    try:
        stack.start(folder)
        looking = threading.Thread(target=_look, args=(folder, finished, most), daemon=True)
        looking.start()
        outcome = run_load(
            folder,
            use_state(state_path(folder)),
            LoadOptions(
                count=messages,
                rate=0.0,
                channels=CHANNELS,
                conversations=max(1, messages // 4),
                group_share=0.0,
                groups=1,
                group_size=20,
                duplicates=0.0,
                seed=1,
            ),
        )
        finished.set()
        looking.join()
    finally:
        control.stop(folder)
    if not outcome.ok:
        raise SystemExit("no figure: the verdict of the load was not good")
    return most


def _look(folder: Path, finished: threading.Event, most: dict[str, float]) -> None:
    state = read_state(folder)
    workers = {s.name: psutil.Process(s.pid) for s in state.services if s.pid and s.name in WORKERS} if state else {}
    while not finished.wait(LOOK_SECONDS):
        for name, process in workers.items():
            with suppress(psutil.NoSuchProcess):
                most[name] = max(most.get(name, 0.0), process.memory_info().rss / 1e6)
