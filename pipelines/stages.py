"""Every stage by name, built from the settings: the one place where stages, connectors and sinks meet."""

from collections.abc import Callable, Mapping
from typing import Any

from connectors.registry import CHANNELS
from pipelines.analyse import Analyse
from pipelines.archive import Archive
from pipelines.contacts import contact_in
from pipelines.engine.mirror import Mirror
from pipelines.engine.stage import Stage
from pipelines.match import Match
from pipelines.route import Channel, Route
from pipelines.send import Send
from pipelines.sending import Limits
from pipelines.track import Track
from schemas.accounts import accounts_in
from schemas.settings import Settings
from sinks.clickhouse import Facts
from sinks.postgres import Archive as ArchiveSink

DAY_MS = 86_400_000


def _route(settings: Settings) -> Stage[Any]:
    channels = {
        name: Channel(account, channel.check)
        for name, channel in CHANNELS.items()
        if (account := channel.account(settings))
    }
    contacts = Mirror(kafka_url=settings.kafka_url, topic="contacts", decode=contact_in)
    return Route(
        partitions=settings.partitions,
        dedupe_ms=int(settings.dedupe_days * DAY_MS),
        schedule_ms=int(settings.schedule_days * DAY_MS),
        channels=channels,
        contacts=contacts,
        accounts=accounts_in(settings.accounts),
    )


def _send(settings: Settings) -> Stage[Any]:
    connectors = {name: channel.build(settings) for name, channel in CHANNELS.items() if channel.account(settings)}
    limits = Limits(
        concurrency=settings.send_concurrency,
        account=settings.send_account_concurrency,
        outstanding=settings.send_outstanding,
        attempts=settings.send_attempts,
        hold_ms=int(settings.unknown_hold_seconds * 1000),
        scheduled=settings.send_scheduled,
        scheduled_bytes=settings.send_scheduled_bytes,
    )
    return Send(connectors=connectors, limits=limits)


def _match(settings: Settings) -> Stage[Any]:
    return Match(
        partitions=settings.partitions,
        binding_ms=int(settings.binding_days * DAY_MS),
        orphan_ms=int(settings.orphan_seconds * 1000),
    )


def _track(settings: Settings) -> Stage[Any]:
    return Track(state_ms=int(settings.state_days * DAY_MS))


def _archive(settings: Settings) -> Stage[Any]:
    return Archive(sink=ArchiveSink(settings.postgres_url), linger_ms=settings.archive_linger_ms)


def _analyse(settings: Settings) -> Stage[Any]:
    return Analyse(sink=Facts(settings.clickhouse_url), linger_ms=settings.analyse_linger_ms)


BUILDERS: Mapping[str, Callable[[Settings], Stage[Any]]] = {
    "route": _route,
    "send": _send,
    "match": _match,
    "track": _track,
    "archive": _archive,
    "analyse": _analyse,
}
# What each stage cannot start without, besides Kafka.
REQUIRED: Mapping[str, tuple[str, ...]] = {"archive": ("postgres_url",), "analyse": ("clickhouse_url",)}
# Tables of each stage: `prepare` creates their changelogs without building a stage.
TABLES: Mapping[str, tuple[str, ...]] = {
    stage.name: tuple(layout.name for layout in stage.tables) for stage in (Route, Send, Match, Track, Archive, Analyse)
}
