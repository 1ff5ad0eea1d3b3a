"""A stage's Faust app: the engine in place of Faust's transport, recovery and tables; one agent; the web views."""

import logging
import socket
from pathlib import Path
from typing import Any

import faust
import yarl
from mode.supervisors import CrashingSupervisor

from pipelines import web
from pipelines.engine.stage import Stage
from pipelines.engine.tables import BatchTable, BulkTableManager
from pipelines.engine.transport import BatchTransport, RawBatch
from pipelines.engine.worker import Engine
from schemas.settings import Settings

WEEK_SECONDS = 7 * 86_400.0


def app_id(stage: str) -> str:
    """Faust app id, Kafka group and prefix of transactional ids of a stage."""
    return f"chat4all-{stage}"


def _free_port(host: str) -> int:
    """Faust wants a port by number; whoever asks for 0 finds it in the log."""
    with socket.socket() as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])


def build(stage: Stage[Any], settings: Settings) -> faust.App:
    """The app of one worker. One app per process."""
    kafka_url = settings.kafka_url
    url = yarl.URL(f"kafka://{kafka_url.split(',')[0]}")
    app = faust.App(
        app_id(stage.name),
        broker=[yarl.URL(f"kafka://{host}") for host in kafka_url.split(",")],
        store="memory://",
        topic_partitions=settings.partitions,
        topic_allow_declare=False,  # `python -m pipelines prepare` creates topics, from schemas/topics.toml
        topic_disable_leader=True,
        Table=BatchTable,
        TableManager=BulkTableManager,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=settings.session_timeout_seconds,
        # Twelve a session: the group expels a dead worker a session after its last one, survivors hear of it with their next.
        broker_heartbeat_interval=max(0.25, settings.session_timeout_seconds / 12),
        broker_max_poll_interval=WEEK_SECONDS,  # aiokafka polls nothing here; the engine's health watches progress
        web_host=settings.web_host,
        web_bind=settings.web_host,
        web_port=settings.web_port or _free_port(settings.web_host),
        web_cors_options=None,
    )
    app.engine = Engine(
        stage=stage,
        app_id=app.conf.id,
        kafka_url=kafka_url,
        session_seconds=settings.session_timeout_seconds,
        stuck_seconds=settings.stuck_seconds,
        poison_limit=settings.poison_limit,
        store=settings.store,
        folder=Path(settings.data_dir) / stage.name,
    )
    app.transport = BatchTransport([url], app)
    for layout in stage.tables:
        app.Table(layout.name, partitions=settings.partitions)
    topic = app.topic(*(source.topic for source in stage.sources), schema=RawBatch())

    @app.agent(topic, name=stage.name, supervisor_strategy=CrashingSupervisor)
    async def take_turns(stream: Any) -> None:
        async for event in stream.noack().events():
            app.engine.submit(event.message)

    web.add_views(app)
    return app


def run(app: faust.App) -> None:
    """Runs the app's worker until it is told to stop; prints nothing and leaves logging as it is."""
    worker = faust.Worker(app, loglevel=logging.WARNING, quiet=True, redirect_stdouts=False, override_logging=False)
    worker.spinner = None  # even a quiet one writes to standard output: backspaces and "show the cursor"
    worker.execute_from_commandline()
