"""One thread for blocking calls, one after the other, that can be abandoned when a call does not return.

A ThreadPoolExecutor waits for its threads when the process ends. librdkafka sometimes never returns from a call, so that these threads are
daemons, and an abandoned one is replaced by a new one.
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
    """An executor of one thread, which starts with the first job. No method blocks; for the event loop."""

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
        """Lets the thread end after the jobs that it has, whenever they return; the next job gets a new thread. Does not wait."""
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            jobs.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  # Executor's signature
        self.abandon()


def _work(jobs: "queue.SimpleQueue[_Job | None]") -> None:
    while _do(jobs.get()):
        pass


def _do(job: _Job | None) -> bool:
    """Does a job. An error refers to the frames that it passed. None of them may keep the future, which refers to the error: the cycle
    would keep alive what the step held, for example a Kafka client with its threads."""
    if job is None:
        return False
    future, step, arguments, named = job
    try:
        future.set_result(step(*arguments, **named))
    except BaseException as error:  # noqa: BLE001  # it is raised where the future is awaited
        future.set_exception(error)
    finally:
        del job, future
    return True
