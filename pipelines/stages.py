"""Every stage by name, built from the settings: the one place where stages, connectors and sinks meet.

A stage is imported when it is built: a worker runs one, and the others' libraries would cost it half its start.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pipelines.engine.stage import Stage
from schemas.settings import Settings

# ruff: noqa: PLC0415  # see above
DAY_MS = 86_400_000


def _route(settings: Settings) -> Stage[Any]:
    from connectors.registry import CHANNELS
    from pipelines.contacts import contact_in
    from pipelines.engine.mirror import Mirror
    from pipelines.route import Channel, Route
    from schemas.accounts import accounts_in

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
    from connectors.registry import CHANNELS
    from pipelines.send import Send
    from pipelines.sending import Limits

    connectors = {name: channel.build(settings) for name, channel in CHANNELS.items() if channel.account(settings)}
    limits = Limits(
        concurrency=settings.send_concurrency,
        outstanding=settings.send_outstanding,
        attempts=settings.send_attempts,
        hold_ms=int(settings.unknown_hold_seconds * 1000),
        scheduled=settings.send_scheduled,
        scheduled_bytes=settings.send_scheduled_bytes,
    )
    return Send(connectors=connectors, limits=limits)


def _match(settings: Settings) -> Stage[Any]:
    from pipelines.match import Match

    return Match(
        partitions=settings.partitions,
        binding_ms=int(settings.binding_days * DAY_MS),
        orphan_ms=int(settings.orphan_seconds * 1000),
    )


def _track(settings: Settings) -> Stage[Any]:
    from pipelines.track import Track

    return Track(state_ms=int(settings.state_days * DAY_MS))


def _archive(settings: Settings) -> Stage[Any]:
    from pipelines.archive import Archive
    from sinks.postgres import Archive as ArchiveSink

    return Archive(sink=ArchiveSink(settings.postgres_url), linger_ms=settings.archive_linger_ms)


def _analyse(settings: Settings) -> Stage[Any]:
    from pipelines.analyse import Analyse
    from sinks.clickhouse import Facts

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


def tables(stage: str) -> tuple[str, ...]:
    """The names of a stage's tables; `prepare` creates their changelogs without building the stage."""
    kind: type[Stage[Any]] = getattr(import_module(f"pipelines.{stage}"), stage.capitalize())
    return tuple(layout.name for layout in kind.tables)
