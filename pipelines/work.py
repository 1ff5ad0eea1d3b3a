"""`python -m pipelines worker STAGE`: one worker of a stage, from its settings to its end."""

from pipelines import topics
from pipelines.app import build, run
from pipelines.engine.footing import Unfit
from pipelines.engine.names import app_id, changelog_topic
from pipelines.stages import BUILDERS, REQUIRED, tables
from schemas.settings import MissingSetting, Settings
from sinks.base import NotMigrated, Unavailable

EXPECTED = (MissingSetting, topics.TopicsNotRight, Unfit, Unavailable, NotMigrated)


def work(stage: str, settings: Settings) -> None:
    """Runs one worker of a stage until it is told to stop. Raises one of EXPECTED before anything has begun."""
    settings.require("kafka_url", *REQUIRED.get(stage, ()))
    built = BUILDERS[stage](settings)
    wanted = {source.topic for source in built.sources}
    topics.check(settings, wanted | {changelog_topic(app_id(stage), table) for table in tables(stage)})
    run(build(built, settings))
