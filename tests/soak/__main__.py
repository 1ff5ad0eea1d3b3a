"""The soak: `python -m tests.soak --minutes 20`; exits 1 when anything is wrong.

It starts a stack of its own. In turn the stack is idle, gets one message a second, gets a burst, and is idle again, while an application
commits, keeps open and aborts transactions. A correct run has no ended process, no lag while nothing happens (in /health, in /metrics
and in Kafka's own figures), no growing memory, every committed message delivered exactly once, and no message of an aborted transaction.
"""

import argparse
import os
import sys

from schemas import benchmark
from tests.soak import soak_report
from tests.soak.soak_run import run
from tests.support.engine_harness import REPOSITORY

BENCHMARK_MINUTES = 20.0  # a shorter run is a check, not a measurement


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    minutes = parser.parse_args().minutes
    found = run(minutes, REPOSITORY / ".chat4all" / f"soak-{os.getpid()}")
    print("\n".join(soak_report.lines(found)))
    if minutes >= BENCHMARK_MINUTES:
        written = benchmark.write("soak", f"make soak MINUTES={minutes:g}", soak_report.figures(found))
        print(f"written: {written.name}")
    sys.exit(1 if found.findings else 0)


if __name__ == "__main__":
    main()
