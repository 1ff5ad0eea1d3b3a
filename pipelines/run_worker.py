"""`python -m pipelines worker KIND`: checks settings, topics and databases, then runs one worker."""

from pipelines import topics
from pipelines.app import build_all, run
from pipelines.engine.kafka_names import app_id, changelog_topic
from pipelines.engine.topic_identity import UnusableTopics
from pipelines.stages import REQUIRED, apps
from pipelines.view_access import Access
from schemas.settings import MissingSetting, Settings
from sinks.sink_errors import NotMigrated, Unavailable

EXPECTED = (MissingSetting, topics.TopicsNotRight, UnusableTopics, Unavailable, NotMigrated)


def work(kind: str, settings: Settings) -> None:
    """Runs one worker; blocks until SIGTERM or SIGINT. Raises one of EXPECTED before a stage starts."""
    settings.require("kafka_url", *REQUIRED[kind])
    Access(settings)  # raises MissingSetting before the first request to a server
    built = apps(kind, settings)
    wanted = {source.topic for stage in built for source in stage.sources}
    topics.check(settings, wanted | {changelog_topic(app_id(stage.name), None) for stage in built if stage.tables})
    if kind == "sinks":
        from sinks import migrate  # noqa: PLC0415  # core does not need database clients

        migrate.check(settings.postgres_url, settings.clickhouse_url)
    run(*build_all(built, settings))
