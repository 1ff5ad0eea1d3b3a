"""`python -m pipelines prepare`: run it before the first start of a deployment, and again after every release.

In: settings. Out: topics in Kafka, migrated databases. Guaranteed: it is harmless to repeat, and lowers no limit of a topic.
"""

from concurrent.futures import ThreadPoolExecutor

import structlog

from pipelines import topics
from schemas.settings import MissingSetting, Settings
from sinks import migrate
from sinks.migration_files import MigrationRefused
from sinks.sink_errors import Unavailable

log = structlog.get_logger(__name__)
EXPECTED = (MissingSetting, topics.TopicsNotRight, Unavailable, MigrationRefused, migrate.MigrationFailed)


def run(settings: Settings) -> None:
    """Creates missing topics, raises record limits that are lower than declared, and migrates both databases. Blocks; Kafka and
    the databases are prepared at the same time, because neither depends on the other. Raises one of EXPECTED."""
    settings.require("kafka_url", "postgres_url", "clickhouse_url")
    with ThreadPoolExecutor(1) as databases:
        migrating = databases.submit(migrate.migrate, settings.postgres_url, settings.clickhouse_url)
        created = topics.create(settings)
        raised = topics.raise_limits(settings, except_for=created)
        applied = migrating.result()
    log.info("prepared", topics_created=len(created), topics_raised=len(raised), migrations_applied=len(applied))
