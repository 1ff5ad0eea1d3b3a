"""The ACLs of a deployment in Kafka: what each process may do, and nothing more.

In: schemas/topics.toml, the apps and their stages. Out: rules by process. docs/security.md shows them, and `chat4all up --secure` runs
under exactly these. No I/O.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pipelines.engine.kafka_names import app_id, changelog_topic
from pipelines.polling_group import PREFIX
from pipelines.stages import APPS, INNER, WORKERS, kinds, tables
from pipelines.topics import POLLING
from schemas.catalog import TOPICS

Resource = Literal["topic", "group", "transactional_id"]
# Processes that are no workers, by their names in schemas/topics.toml.
# Producers of messages; in the development stack `chat4all load`, `message` and `demo`.
APPLICATIONS = "applications"
# Clients of channel internal; in the development stack the simulators.
CLIENTS = "clients"
GATEWAY = "gateway"
PREPARE = "prepare"
# `chat4all erase`, `check` and `replay`.
OPERATOR = "operator"
OF_CLIENTS = "deliveries.internal"
READ, WRITE, CONFIGS, DESCRIBE = "READ", "WRITE", "DESCRIBE_CONFIGS", "DESCRIBE"
_ORDER = ("CREATE", DESCRIBE, READ, WRITE, CONFIGS, "ALTER_CONFIGS")


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """Operations on a resource; with `is_prefix`, on all resources whose names begin with `name`. READ and WRITE include DESCRIBE."""

    resource: Resource
    name: str
    operations: tuple[str, ...]
    is_prefix: bool = False


def rules() -> dict[str, tuple[Rule, ...]]:
    """The rules by process: a kind of worker, GATEWAY, PREPARE, APPLICATIONS, OPERATOR or CLIENTS."""
    found: dict[str, Iterable[Rule]] = {kind: _of_worker(kind) for kind in WORKERS}
    found[GATEWAY] = _of_gateway()
    found[PREPARE] = _of_prepare()
    found[APPLICATIONS] = _topics(_written_by({APPLICATIONS}), WRITE)
    found[OPERATOR] = _of_operator()
    found[CLIENTS] = (
        *_topics({OF_CLIENTS}, READ),
        Rule("group", f"chat4all-simulated-clients-{OF_CLIENTS}", (READ,)),
    )
    return {who: tuple(sorted(_one_each(each))) for who, each in found.items()}


def _one_each(found: Iterable[Rule]) -> Iterable[Rule]:
    """One rule for each resource: two apps of a worker may have different operations on one topic."""
    operations: dict[Rule, dict[str, None]] = {}
    for rule in found:
        operations.setdefault(replace(rule, operations=()), {}).update(dict.fromkeys(rule.operations))
    return [replace(rule, operations=tuple(sorted(each, key=_ORDER.index))) for rule, each in operations.items()]


def _of_worker(kind: str) -> Iterable[Rule]:
    """For every app of the worker: its topics, its groups and its transactional ids."""
    for app in (app for app, stages in APPS.items() if set(stages) <= set(WORKERS[kind])):
        stages, changelogs = set(APPS[app]), {changelog_topic(app_id(app), None)} if tables(app) else set()
        inner = INNER if len(stages) > 1 else frozenset()
        read = {name for name, topic in TOPICS.items() if stages & set(topic.consumers)} - inner | changelogs
        written = _written_by(stages) | changelogs
        mirrored = {each.topic for stage in kinds(app) for each in stage.mirrored}
        for name in read | written:
            checked = name in read - mirrored  # the engine checks the cleanup policy of its sources and changelogs
            operations = (READ,) * (name in read) + (WRITE,) * (name in written) + (CONFIGS,) * checked
            yield Rule("topic", name, operations)
        yield Rule("group", app_id(app), (READ,))
        yield Rule("transactional_id", f"{app_id(app)}-", (WRITE,), is_prefix=True)
        # consumers without group membership: they commit nothing
        own = {f"chat4all-mirror-{name}" for name in mirrored}
        own |= {"chat4all-restore", "chat4all-ends"} if changelogs else set()
        yield from (Rule("group", name, (READ,)) for name in own)


def _of_gateway() -> Iterable[Rule]:
    """Where it polls, it is a member of a group and has a transactional id for each account; it reads no topic with records."""
    yield from _topics(_written_by({GATEWAY}), WRITE)
    yield Rule("topic", POLLING, (READ,))
    yield Rule("group", f"{PREFIX}-", (READ,), is_prefix=True)
    yield Rule("transactional_id", f"{PREFIX}-", (WRITE,), is_prefix=True)


def _of_operator() -> Iterable[Rule]:
    """An erasure writes; a check and a replay read what the sinks read, and all see how far the workers have read."""
    yield from _topics(_written_by({OPERATOR}), WRITE)
    yield from _topics((name for name, topic in TOPICS.items() if {"archive", "analyse"} & set(topic.consumers)), READ)
    yield from (Rule("group", app_id(app), (DESCRIBE,)) for app in ("core", "archive", "analyse"))
    yield from (Rule("group", f"chat4all-{command}", (READ,)) for command in ("check", "replay"))


def _of_prepare() -> Iterable[Rule]:
    names = [*TOPICS, POLLING, *(changelog_topic(app_id(app), None) for app in APPS if tables(app))]
    for name in names:
        yield Rule("topic", name, ("CREATE", "DESCRIBE", CONFIGS, "ALTER_CONFIGS"))
    yield Rule("topic", "chat4all-", ("DESCRIBE",), is_prefix=True)  # `prepare` looks for topics of an older layout


def _written_by(parties: set[str]) -> set[str]:
    return {name for name, topic in TOPICS.items() if parties & set(topic.producers)}


def _topics(names: Iterable[str], operation: str) -> tuple[Rule, ...]:
    return tuple(Rule("topic", name, (operation,)) for name in names)


def plain(found: Mapping[str, Iterable[Rule]]) -> dict[str, list[dict[str, object]]]:
    """The rules as plain data, for JSON."""
    return {
        who: [
            {
                "resource": each.resource,
                "name": each.name,
                "operations": list(each.operations),
                "is_prefix": each.is_prefix,
            }
            for each in rules_of
        ]
        for who, rules_of in found.items()
    }
