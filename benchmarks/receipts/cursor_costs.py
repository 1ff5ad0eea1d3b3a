"""What cursors cost: the CPU of core for a delivery with them and without, from a message to the last receipt.

Enters: a folder, the number of pairs. Leaves: CPU seconds of core for each load. Two stacks run; core of one of them keeps no cursors
(worker_without_cursors.py). The same load goes to each in turn, as fast as possible. There is no figure if the verdict of a load finds
anything, or if it does not miss the cursors where there are none.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil

from cli.dev_stack import compose
from cli.load import CHANNELS
from cli.load_run import LoadOptions, run_load
from loadgen.verdict import Kind
from schemas.settings import use_state
from stack import control
from stack.plan import Process, StackPlan
from stack.state import read_state, state_path

WITHOUT = "benchmarks.receipts.worker_without_cursors"
# side -> what the verdict finds: without cursors every member's is missing, and nothing else is wrong
SIDES: Mapping[str, set[Kind]] = {"with": set(), "without": {Kind.CURSOR}}


class Cost(NamedTuple):
    """Of one load, in core."""

    cpu_seconds: float
    deliveries: int

    @property
    def us(self) -> float:
        """Microseconds of CPU a delivery."""
        return 1e6 * self.cpu_seconds / self.deliveries


def measured(folder: Path, pairs: int, messages: int) -> list[dict[str, Cost]]:
    """The costs of each pair, by side. Blocks for the whole run."""
    with ExitStack() as started:
        stacks = {side: folder / side for side in SIDES}
        for side, place in stacks.items():
            started.enter_context(_stack(place, without=side == "without"))
        found = []
        for number in range(pairs + 1):  # the first is a warm-up
            order = tuple(SIDES) if number % 2 else tuple(SIDES)[::-1]
            costs = {side: _loaded(stacks[side], messages, number, SIDES[side]) for side in order}
            found += [costs] if number else []
        return found


def _loaded(folder: Path, messages: int, seed: int, expected: set[Kind]) -> Cost:
    settings = use_state(state_path(folder))
    options = LoadOptions(
        count=messages,
        rate=0.0,
        channels=CHANNELS,
        conversations=max(1, messages // 4),
        group_share=0.0,
        groups=1,
        group_size=20,
        duplicates=0.0,
        seed=seed,
    )
    before = _core_seconds(folder)
    outcome = run_load(folder, settings, options)
    found = {kind for kind, number in outcome.verdict.totals.items() if number}
    if found != expected:
        raise SystemExit(
            f"no figure: the verdict of a load in {folder.name} has {sorted(found)}, not {sorted(expected)}"
        )
    return Cost(_core_seconds(folder) - before, outcome.load.deliveries)


def _core_seconds(folder: Path) -> float:
    state = read_state(folder)
    pid = next((service.pid for service in state.services if service.name == "core"), None) if state else None
    if not pid:
        raise SystemExit(f"no figure: core of {folder.name} does not run")
    used = 0.0
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            used += times.user + times.system
    return used


@contextmanager
def _stack(folder: Path, *, without: bool) -> Iterator[None]:
    plan = compose(folder)
    try:
        control.start(folder, _without_cursors(plan) if without else plan)
        yield
    finally:
        control.stop(folder)


def _without_cursors(plan: StackPlan) -> StackPlan:
    return replace(plan, processes=[_without(each) if each.name == "core" else each for each in plan.processes])


def _without(core: Process) -> Process:
    argv = [WITHOUT if argument == "pipelines" else argument for argument in core.argv]
    return replace(core, argv=argv)
