"""Builds every stage and every kind of worker from the settings. Only this module connects stages, connectors and sinks.

In: settings. Out: stages that have not started. A stage is imported when it is built: importing the libraries of all stages would double
the start time of a worker.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pipelines.engine.chain import Chain
from pipelines.engine.stage import Stage
from schemas.settings import Settings

# ruff: noqa: PLC0415  # see above
DAY_MS = 86_400_000


def _route(settings: Settings) -> Stage[Any]:
    from connectors.registry import CHANNELS
    from pipelines.recipients import Reachable
    from pipelines.route import Route
    from schemas.accounts import accounts_in

    channels = {
        name: Reachable(account, channel.check)
        for name, channel in CHANNELS.items()
        if (account := channel.account(settings))
    }
    return Route(
        partitions=settings.partitions,
        dedupe_ms=int(settings.dedupe_days * DAY_MS),
        schedule_ms=int(settings.schedule_days * DAY_MS),
        channels=channels,
        accounts=accounts_in(settings.accounts),
    )


def _send(settings: Settings) -> Stage[Any]:
    from connectors.registry import CHANNELS
    from pipelines.send import Send
    from pipelines.send_state import SendLimits
    from schemas.accounts import accounts_in

    connectors = {name: channel.build(settings) for name, channel in CHANNELS.items() if channel.account(settings)}
    limits = SendLimits(
        concurrency=settings.send_concurrency,
        account=settings.send_account_concurrency,
        outstanding=settings.send_outstanding,
        attempts=settings.send_attempts,
        hold_ms=int(settings.unknown_hold_seconds * 1000),
        scheduled=settings.send_scheduled,
        scheduled_bytes=settings.send_scheduled_bytes,
        not_receiving_ms=int(settings.not_receiving_days * DAY_MS),
    )
    return Send(connectors=connectors, limits=limits, accounts=accounts_in(settings.accounts))


def _match(settings: Settings) -> Stage[Any]:
    from connectors.registry import CHANNELS
    from pipelines.match import Match
    from pipelines.match_opt_out import OptOut
    from pipelines.match_threads import HOUR_MS, ThreadLimits
    from schemas.opt_out_policies import policies_in
    from schemas.tracker import keys_in

    is_group = {name: each.capabilities.is_group for name, each in CHANNELS.items()}
    hours = {name: each.capabilities.window_hours for name, each in CHANNELS.items()}
    threads = ThreadLimits(
        window_ms=int(settings.thread_window_hours * HOUR_MS),
        wait_ms=int(settings.reply_wait_seconds * 1000),
        dedupe_ms=int(settings.dedupe_days * DAY_MS),
        service_windows={name: each * HOUR_MS for name, each in hours.items() if each},
    )
    return Match(
        partitions=settings.partitions,
        binding_ms=int(settings.binding_days * DAY_MS),
        orphan_ms=int(settings.orphan_seconds * 1000),
        orphan_kept_ms=int(settings.orphan_days * DAY_MS),
        threads=threads,
        tracker_keys=keys_in(settings.tracker_keys.get_secret_value()),
        opt_out=OptOut(policies_in(settings.opt_out), is_group),
    )


def _track(settings: Settings) -> Stage[Any]:
    from connectors.registry import OBSERVED
    from pipelines.track import Track
    from schemas.stalled_times import stalled_times

    return Track(
        state_ms=int(settings.state_days * DAY_MS),
        observed=OBSERVED,
        stalled_ms=stalled_times(settings.stalled_seconds),
    )


def _archive(settings: Settings) -> Stage[Any]:
    from pipelines.archive import Archive
    from schemas.retention_days import retention_in
    from sinks.postgres import PostgresArchive as ArchiveSink

    retention = retention_in(settings.retention_days, settings.tenant_retention)
    sink = ArchiveSink(settings.postgres_url, retention=retention)
    return Archive(sink=sink, linger_ms=settings.archive_linger_ms)


def _analyse(settings: Settings) -> Stage[Any]:
    from pipelines.analyse import Analyse
    from sinks.clickhouse import ClickHouseFacts

    return Analyse(sink=ClickHouseFacts(settings.clickhouse_url), linger_ms=settings.analyse_linger_ms)


def _register(settings: Settings) -> Stage[Any]:
    from pipelines.register import Register
    from sinks.clickhouse import ClickHouseFacts
    from sinks.register_sink import PostgresRegister

    return Register(sink=PostgresRegister(settings.postgres_url), facts=ClickHouseFacts(settings.clickhouse_url))


BUILDERS: Mapping[str, Callable[[Settings], Stage[Any]]] = {
    "route": _route,
    "send": _send,
    "match": _match,
    "track": _track,
    "archive": _archive,
    "analyse": _analyse,
    "register": _register,
}
# The stages of each kind of worker; a stage hands its outputs to the next ones. The sets are fixed, so that offsets and tables never have
# to move between consumer groups.
WORKERS: Mapping[str, tuple[str, ...]] = {
    "core": ("route", "match", "send", "track"),
    "sinks": ("archive", "register", "analyse"),  # the last one serves the web views, which show its tables
}
# The settings that each kind of worker needs, besides Kafka.
REQUIRED: Mapping[str, tuple[str, ...]] = {"core": ("tracker_keys",), "sinks": ("postgres_url", "clickhouse_url")}
# The stages of each app. An app has one consumer group, and one changelog for all its tables.
APPS: Mapping[str, tuple[str, ...]] = {
    "core": WORKERS["core"],
    "archive": ("archive",),
    "register": ("register",),
    "analyse": ("analyse",),
}
# INNER: topics that only the stages of core write. OUTSIDE: topics that others read too, although core hands their records over.
INNER = frozenset({"conversation-log"})
OUTSIDE = frozenset({"conversation-log", "deliveries.internal"})


def apps(worker: str, settings: Settings) -> list[Stage[Any]]:
    """The stages that a worker of this kind runs, one for each of its Faust apps. The sinks are three apps with a consumer group each, so
    that each continues from its own offsets while the database of another is unavailable."""
    built = [BUILDERS[name](settings) for name in WORKERS[worker]]
    if worker == "sinks":
        return built
    return [
        Chain(
            name=worker,
            stages=built,
            inner=INNER,
            outside=OUTSIDE,
            poison_limit=settings.poison_limit,
            linger_ms=settings.core_linger_ms,
            turn_records=settings.core_turn_records,
            fetch_gather_ms=settings.core_gather_ms,
        )
    ]


def kinds(app: str) -> list[type[Stage[Any]]]:
    """The classes of an app's stages, to read their declarations without building a stage."""
    return [getattr(import_module(f"pipelines.{stage}"), stage.capitalize()) for stage in APPS[app]]


def tables(app: str) -> tuple[str, ...]:
    """The names of an app's tables, found without building a stage. `prepare` creates their changelog."""
    return tuple(layout.name for kind in kinds(app) for layout in kind.tables)
