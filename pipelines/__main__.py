"""`python -m pipelines worker core|sinks | gateway | prepare`: what a deployment runs, one process each.

An expected failure (a missing setting, an unreachable server, a topic that differs from its declaration) prints one line on
standard error and ends with exit code 2. A worker that can no longer trust its memory ends with exit code 3: start it again.
"""

import argparse
import sys
from collections.abc import Callable

from pydantic import ValidationError

from pipelines import logs
from pipelines.stages import WORKERS
from schemas.redaction import redactor
from schemas.settings import Settings, wrong

# What it runs, and the exceptions that end in one line and exit code 2.
Part = tuple[Callable[[Settings], None], tuple[type[Exception], ...]]


def part_of(arguments: argparse.Namespace) -> Part:
    """The chosen part. Only its modules are imported: the gateway does not need Faust, and core does not need database clients."""
    if arguments.part == "worker":
        from pipelines import run_worker  # noqa: PLC0415  # only what this part needs

        return lambda settings: run_worker.work(arguments.kind, settings), run_worker.EXPECTED
    if arguments.part == "gateway":
        from pipelines import gateway  # noqa: PLC0415  # the same

        return gateway.run, gateway.EXPECTED
    from pipelines import prepare  # noqa: PLC0415  # the same

    return prepare.run, prepare.EXPECTED


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    worker = parts.add_parser("worker", help="run the stages of one worker")
    worker.add_argument(
        "kind", choices=sorted(WORKERS), help="core: route, match, send, track; sinks: archive, analyse, register"
    )
    parts.add_parser("gateway", help="receive the webhooks of the providers")
    parts.add_parser("prepare", help="create the topics and migrate the databases; safe to repeat")
    arguments = parser.parse_args()
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"{arguments.part}: {wrong(error)}", file=sys.stderr)  # noqa: T201  # for the person at the terminal
        return 2
    logs.configure(settings)
    run, expected = part_of(arguments)
    try:
        run(settings)
    except expected as error:
        line = redactor(settings)(f"{arguments.part}: {error}")
        print(line, file=sys.stderr)  # noqa: T201  # for the person at the terminal
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
