"""`python -m pipelines prepare`: what a deployment runs once before everything else, and again after every release."""

from concurrent.futures import ThreadPoolExecutor

import structlog

from pipelines import topics
from schemas.settings import MissingSetting, Settings
from sinks import migrate
from sinks.sink_errors import Unavailable

log = structlog.get_logger(__name__)
EXPECTED = (MissingSetting, topics.TopicsNotRight, Unavailable, migrate.ChangedMigration)


def run(settings: Settings) -> None:
    """Creates the topics, raises the limits of those that take less than declared, and migrates both databases; harmless to repeat.
    Kafka and the databases know nothing of each other, so both are done at once. Raises one of EXPECTED."""
    settings.require("kafka_url", "postgres_url", "clickhouse_url")
    with ThreadPoolExecutor(1) as databases:
        migrating = databases.submit(migrate.migrate, settings.postgres_url, settings.clickhouse_url)
        created = topics.create(settings)
        raised = topics.raise_limits(settings, except_for=created)
        applied = migrating.result()
    log.info("prepared", topics_created=len(created), topics_raised=len(raised), migrations_applied=len(applied))
