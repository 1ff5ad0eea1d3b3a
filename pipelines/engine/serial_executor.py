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
_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class SerialExecutor(Executor):
    """An executor of one thread, which starts with the first job."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            threading.Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True).start()
        future: Future[T] = Future()
        self._jobs.put((future, fn, args, kwargs))
        return future

    def abandon(self) -> None:
        """The thread ends with the job it has, whenever that returns; the next job gets another one."""
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            jobs.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  # Executor's signature
        self.abandon()


def _work(jobs: "queue.SimpleQueue[_Job | None]") -> None:
    while _do(jobs.get()):
        pass


def _do(job: _Job | None) -> bool:
    """Does a job. An error knows the frames it came through: none of them keeps the future, which knows the error, or the two would keep
    each other alive, and whatever the step held, a client of Kafka with its threads perhaps."""
    if job is None:
        return False
    future, step, arguments, named = job
    try:
        future.set_result(step(*arguments, **named))
    except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits for the future
        future.set_exception(error)
    finally:
        del job, future
    return True
