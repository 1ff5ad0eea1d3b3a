"""`python -m pipelines worker STAGE | gateway | prepare`: what a deployment runs, one process each.

An expected failure (a missing setting, a server that cannot be reached, a topic that is not as declared) ends in one line on
standard error and exit code 2; a worker that can no longer be right ends with 3 and is to be started again.
"""

import argparse
import sys

import structlog
from pydantic import ValidationError

from pipelines import gateway, logs, topics
from pipelines.app import app_id, build, run
from pipelines.engine.footing import Unfit
from pipelines.engine.worker import changelog_topic
from pipelines.stages import BUILDERS, REQUIRED, TABLES
from schemas.settings import MissingSetting, Settings, wrong
from sinks import migrate
from sinks.base import NotMigrated, Unavailable

log = structlog.get_logger(__name__)
EXPECTED = (MissingSetting, topics.TopicsNotRight, Unfit, Unavailable, NotMigrated, migrate.ChangedMigration)


def worker(stage: str, settings: Settings) -> None:
    """Runs one worker of a stage until it is told to stop."""
    settings.require("kafka_url", *REQUIRED.get(stage, ()))
    built = BUILDERS[stage](settings)
    wanted = {source.topic for source in built.sources} | {
        changelog_topic(app_id(stage), table) for table in TABLES[stage]
    }
    topics.check(settings, wanted)
    run(build(built, settings))


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
    parts.add_parser("worker").add_argument("stage", choices=sorted(BUILDERS))
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
            worker(arguments.stage, settings)
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
