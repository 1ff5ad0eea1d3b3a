"""A worker's Faust app: the engine in place of Faust's transport, recovery and tables; one agent per stage; the web views.

In: stages and settings. Out: apps, ready to run. Guaranteed: nothing connects to a server before the app runs; an agent only hands
batches to the engine, which takes the turns.
"""

import logging
import socket
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import faust
import structlog
import yarl
from mode.supervisors import CrashingSupervisor

from pipelines import conversation_views, probes, table_views, worker_views
from pipelines.engine.faust.credentials import credentials
from pipelines.engine.faust.routing import TableRouter
from pipelines.engine.faust.tables import BatchTable, BulkTableManager
from pipelines.engine.faust.transport import BatchTransport, RawBatch, SourceTopics
from pipelines.engine.kafka_names import app_id
from pipelines.engine.stage import Stage
from pipelines.engine.worker import Engine
from pipelines.view_access import ANY_ADDRESS, Access
from schemas.catalog import record_bytes
from schemas.settings import Settings
from schemas.tracebacks import where_all_stand

log = structlog.get_logger(__name__)
WEEK_SECONDS = 7 * 86_400.0


def _free_port(host: str) -> int:
    """A free port for setting 0: Faust needs a number. The log shows it."""
    with socket.socket() as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])


def _web_url(settings: Settings, port: int) -> str:
    """Where the other workers reach the views of this one; they get it from the group, with the assignment."""
    host = settings.web_host
    return settings.web_url or f"http://{socket.gethostname() if host in ANY_ADDRESS else host}:{port}"


def build_all(stages: Sequence[Stage[Any]], settings: Settings) -> list[faust.App]:
    """The apps of one worker. The last one serves the web views, which show all apps."""
    apps: list[faust.App] = []
    for number, stage in enumerate(stages, 1):
        apps.append(build(stage, settings, beside=apps, web_views=number == len(stages)))
    return apps


def build(
    stage: Stage[Any], settings: Settings, *, beside: Sequence[faust.App] = (), web_views: bool = True
) -> faust.App:
    """The app of a stage or of a chain. Its web views also show the apps `beside` it in the same process."""
    app = _bare(stage, settings, web_views=web_views)
    app.engine = Engine(
        stage=stage,
        app_id=app.conf.id,
        kafka=settings.kafka,
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
    taken: set[str] = set()
    for part in getattr(stage, "stages", (stage,)):
        topics = [source.topic for source in stage.sources if any(source.topic == own.topic for own in part.sources)]
        _add_agent(app, part.name, topics, set(topics) - taken)
        taken |= set(topics)
    if web_views:
        _add_web(app, [each.engine for each in (*beside, app)], settings)
    return app


def _add_web(app: faust.App, engines: Sequence[Engine], settings: Settings) -> None:
    """Views for people, which check who may read them, and probes for machines on a port of their own."""
    access = Access(settings)
    app.web.web_app.middlewares.append(access.middleware())
    worker_views.add_views(app, engines)
    table_views.add_table_views(app, access)
    if {"sequences", "outstanding", "timelines"} <= set(app.tables):  # the tables of core
        conversation_views.add_conversation_views(app, access)
    probes.add_probes(app, engines, settings.probe_host, settings.probe_port, Path(settings.data_dir))


def _add_agent(app: faust.App, name: str, topics: Sequence[str], own: AbstractSet[str]) -> None:
    """An agent that reads the topics of its stage. Two stages of a chain may read the same topic: only the agent whose `own` topic it is
    hands the batch to the engine."""

    @app.agent(app.topic(*topics, schema=RawBatch()), name=name, supervisor_strategy=CrashingSupervisor)
    async def take_turns(stream: Any) -> None:
        """Hands batches of records, each of one partition, to the engine."""
        async for event in stream.noack().events():
            if event.message.topic in own:
                app.engine.submit(event.message)


def _bare(stage: Stage[Any], settings: Settings, *, web_views: bool) -> faust.App:
    port = settings.web_port or _free_port(settings.web_host)
    return faust.App(
        app_id(stage.name),
        broker=[yarl.URL(f"kafka://{host}") for host in settings.kafka.url.split(",")],
        broker_credentials=credentials(settings.kafka),
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
        # Twelve heartbeats per session time-out. The group expels a crashed worker one session time-out after its last heartbeat; the
        # other workers learn of it with their next heartbeat.
        broker_heartbeat_interval=max(0.25, settings.session_timeout_seconds / 12),
        broker_max_poll_interval=WEEK_SECONDS,  # aiokafka polls nothing here; the engine's watchdog checks progress
        web_enabled=web_views,
        web_host=settings.web_host,
        web_bind=settings.web_host,
        web_port=port,
        canonical_url=_web_url(settings, port),
        web_tables_enabled=False,  # table_views.py has the same paths
        web_cors_options=None,
    )


class _Worker(faust.Worker):
    """Faust's worker with two signals replaced: Faust writes every local variable to the log on SIGUSR1, and starts a debugger on SIGUSR2.
    This one logs stacks without values on SIGUSR1, and ignores SIGUSR2."""

    async def _cry(self) -> None:
        log.warning("stacks requested", stacks=where_all_stand())

    def _on_sigusr2(self) -> None:
        log.warning("signal ignored", signal="SIGUSR2")


def run(*apps: faust.App) -> None:
    """Runs a worker and blocks until SIGTERM or SIGINT. Prints nothing and does not configure logging. Raises UnusableTopics, before
    anything starts, when the topics do not fit the stages."""
    for app in apps:
        app.engine.check()
    *beside, app = apps
    worker = _Worker(app, *beside, loglevel=logging.WARNING, quiet=True, redirect_stdouts=False, override_logging=False)
    worker.spinner = None  # even with `quiet`, Faust's spinner writes control characters to standard output
    worker.execute_from_commandline()
