"""A stage's Faust app: the engine in place of Faust's transport, recovery and tables; one agent; the web views."""

import logging
import socket
from pathlib import Path
from typing import Any

import faust
import yarl
from mode.supervisors import CrashingSupervisor

from pipelines import table_views, web
from pipelines.engine.routing import TableRouter
from pipelines.engine.stage import Stage
from pipelines.engine.tables import BatchTable, BulkTableManager
from pipelines.engine.transport import BatchTransport, RawBatch, SourceTopics
from pipelines.engine.worker import Engine
from schemas.catalog import record_bytes
from schemas.settings import Settings

WEEK_SECONDS = 7 * 86_400.0
ANY_ADDRESS = ("0.0.0.0", "::", "")


def app_id(stage: str) -> str:
    """Faust app id, Kafka group and prefix of transactional ids of a stage's workers."""
    return f"chat4all-{stage}"


def _free_port(host: str) -> int:
    """Faust wants a port by number; whoever asks for 0 finds it in the log."""
    with socket.socket() as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])


def _web_url(settings: Settings, port: int) -> str:
    """Where the other workers reach this one's views; the group tells them with the assignment."""
    host = settings.web_host
    return settings.web_url or f"http://{socket.gethostname() if host in ANY_ADDRESS else host}:{port}"


def build(stage: Stage[Any], settings: Settings) -> faust.App:
    """The app of one worker. One app per process."""
    app = _bare(stage, settings)
    app.engine = Engine(
        stage=stage,
        app_id=app.conf.id,
        kafka_url=settings.kafka_url,
        session_seconds=settings.session_timeout_seconds,
        stuck_seconds=settings.stuck_seconds,
        poison_limit=settings.poison_limit,
        rest_seconds=settings.commit_rest_ms / 1000,
        record_bytes=record_bytes,
        store=settings.store,
        folder=Path(settings.data_dir) / stage.name,
    )
    app.transport = BatchTransport(app.conf.broker[:1], app)
    for layout in stage.tables:
        changelog = app.engine.changelog(layout.name)
        app.Table(layout.name, partitions=settings.partitions, help=f"changelog topic {changelog}")
    topic = app.topic(*(source.topic for source in stage.sources), schema=RawBatch())

    @app.agent(topic, name=stage.name, supervisor_strategy=CrashingSupervisor)
    async def take_turns(stream: Any) -> None:
        """Batches of records, one partition's each, to the partition's turns."""
        async for event in stream.noack().events():
            app.engine.submit(event.message)

    web.add_views(app)
    table_views.add_table_views(app)
    return app


def _bare(stage: Stage[Any], settings: Settings) -> faust.App:
    port = settings.web_port or _free_port(settings.web_host)
    return faust.App(
        app_id(stage.name),
        broker=[yarl.URL(f"kafka://{host}") for host in settings.kafka_url.split(",")],
        store="memory://",
        topic_partitions=settings.partitions,
        topic_allow_declare=False,  # `python -m pipelines prepare` creates topics, from schemas/topics.toml
        topic_disable_leader=True,
        Topic=SourceTopics,
        Table=BatchTable,
        TableManager=BulkTableManager,
        Router=TableRouter,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=settings.session_timeout_seconds,
        # Twelve a session: the group expels a dead worker a session after its last one, survivors hear of it with their next.
        broker_heartbeat_interval=max(0.25, settings.session_timeout_seconds / 12),
        broker_max_poll_interval=WEEK_SECONDS,  # aiokafka polls nothing here; the engine's health watches progress
        web_host=settings.web_host,
        web_bind=settings.web_host,
        web_port=port,
        canonical_url=_web_url(settings, port),
        web_tables_enabled=False,  # ours have the same paths
        web_cors_options=None,
    )


def run(app: faust.App) -> None:
    """Runs the app's worker until it is told to stop; prints nothing and leaves logging as it is. Raises Unfit when the stage's
    topics are not fit for it, before anything has begun."""
    app.engine.check()
    worker = faust.Worker(app, loglevel=logging.WARNING, quiet=True, redirect_stdouts=False, override_logging=False)
    worker.spinner = None  # even a quiet one writes to standard output: backspaces and "show the cursor"
    worker.execute_from_commandline()
