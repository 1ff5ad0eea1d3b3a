"""`python -m pipelines worker core|sinks | gateway | prepare`: what a deployment runs, one process each.

An expected failure (a missing setting, a server that cannot be reached, a topic that is not as declared) ends in one line on
standard error and exit code 2; a worker that can no longer be right ends with 3 and is to be started again.
"""

import argparse
import sys

import structlog
from pydantic import ValidationError

from pipelines import gateway, logs, topics
from pipelines.app import build_all, run
from pipelines.engine.footing import Unfit
from pipelines.stages import REQUIRED, WORKERS, apps
from schemas.settings import MissingSetting, Settings, wrong
from sinks import migrate
from sinks.base import NotMigrated, Unavailable

log = structlog.get_logger(__name__)
EXPECTED = (MissingSetting, topics.TopicsNotRight, Unfit, Unavailable, NotMigrated, migrate.ChangedMigration)


def worker(kind: str, settings: Settings) -> None:
    """Runs one worker until it is told to stop."""
    settings.require("kafka_url", *REQUIRED[kind])
    built = apps(kind, settings)
    wanted = {source.topic for stage in built for source in stage.sources}
    topics.check(settings, wanted | {topics.changelog(stage.name) for stage in built if stage.tables})
    run(*build_all(built, settings))


def prepare(settings: Settings) -> None:
    """Creates the topics, raises the limits of those that take less than declared, and migrates both databases; harmless to repeat."""
    settings.require("kafka_url", "postgres_url", "clickhouse_url")
    created = topics.create(settings)
    raised = topics.raise_limits(settings)
    applied = migrate.migrate(settings.postgres_url, settings.clickhouse_url)
    log.info("prepared", topics_created=created, topics_raised=len(raised), migrations_applied=len(applied))


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
    try:
        if arguments.part == "worker":
            worker(arguments.kind, settings)
        elif arguments.part == "gateway":
            gateway.run(settings)
        else:
            prepare(settings)
    except EXPECTED as error:
        print(f"{arguments.part}: {error}", file=sys.stderr)  # noqa: T201  # the line a person reads, not a log
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
