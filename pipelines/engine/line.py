"""One thread that does what blocks, one thing after the other, and that can be left behind when it does not come back.

A ThreadPoolExecutor waits for its threads when the process ends; librdkafka sometimes never returns from a call, so these threads are
daemons, and whoever has given one up takes a fresh one.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_Job = Callable[[], None]


class Line(Executor):
    """An executor of one thread, which starts with the first job."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            threading.Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True).start()
        future: Future[T] = Future()
        self._jobs.put(lambda: _do(future, lambda: fn(*args, **kwargs)))
        return future

    def leave(self) -> None:
        """The thread ends with the job it has, whenever that returns; the next job gets another one."""
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            jobs.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  # Executor's signature
        self.leave()


def _work(jobs: "queue.SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        job()


def _do(future: "Future[Any]", step: Callable[[], Any]) -> None:
    try:
        found = step()
    except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits for the future
        future.set_exception(error)
    else:
        future.set_result(found)
