"""`python -m pipelines worker core|sinks | gateway | prepare`: what a deployment runs, one process each.

An expected failure (a missing setting, a server that cannot be reached, a topic that is not as declared) ends in one line on
standard error and exit code 2; a worker that can no longer be right ends with 3 and is to be started again. Each part imports what it
needs itself: a gateway has no use for Faust, nor `route` for the client of a database.
"""

import argparse
import sys
from collections.abc import Callable

from pydantic import ValidationError

from pipelines import logs
from pipelines.stages import WORKERS
from schemas.redaction import redactor
from schemas.settings import Settings, wrong

Part = tuple[Callable[[Settings], None], tuple[type[Exception], ...]]  # what it does, and what may be expected to fail


def part_of(arguments: argparse.Namespace) -> Part:
    """The chosen part, imported."""
    if arguments.part == "worker":
        from pipelines import run_worker  # noqa: PLC0415  # one part, one part's imports

        return lambda settings: run_worker.work(arguments.kind, settings), run_worker.EXPECTED
    if arguments.part == "gateway":
        from pipelines import gateway  # noqa: PLC0415  # the same

        return gateway.run, gateway.EXPECTED
    from pipelines import prepare  # noqa: PLC0415  # the same

    return prepare.run, prepare.EXPECTED


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("worker").add_argument("kind", choices=sorted(WORKERS))
    parts.add_parser("gateway")
    parts.add_parser("prepare")
    arguments = parser.parse_args()
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"{arguments.part}: {wrong(error)}", file=sys.stderr)  # noqa: T201  # the line a person reads, not a log
        return 2
    logs.configure(settings)
    run, expected = part_of(arguments)
    try:
        run(settings)
    except expected as error:
        line = redactor(settings)(f"{arguments.part}: {error}")
        print(line, file=sys.stderr)  # noqa: T201  # the line a person reads, not a log
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
