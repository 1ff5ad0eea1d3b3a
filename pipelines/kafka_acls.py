"""What each process may do in Kafka, and nothing else: the ACLs of a deployment, made from the declarations of topics and apps.

What enters: schemas/topics.toml, the apps and their stages. What leaves: rules by who they are for. docs/security.md shows them, and
`chat4all up --secure` runs under exactly these. Pure: nothing is asked of Kafka.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipelines.engine.kafka_names import app_id, changelog_topic
from pipelines.stages import APPS, INNER, WORKERS, kinds, tables
from schemas.catalog import TOPICS

Resource = Literal["topic", "group", "transactional_id"]
# who is no worker -> what it is in schemas/topics.toml
APPLICATIONS = (
    "applications"  # whoever has messages to send; of the development stack: `chat4all load`, `message` and `demo`
)
CLIENTS = "clients"  # our own clients, of channel internal; of the development stack: the simulators
GATEWAY = "gateway"
PREPARE = "prepare"
OF_CLIENTS = "deliveries.internal"
READ, WRITE, CONFIGS = "READ", "WRITE", "DESCRIBE_CONFIGS"


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """Operations on a resource, or, `is_prefix`, on all whose names begin so. Kafka lets whoever may read or write describe, too."""

    resource: Resource
    name: str
    operations: tuple[str, ...]
    is_prefix: bool = False


def rules() -> dict[str, tuple[Rule, ...]]:
    """By the name of whom they are for."""
    found: dict[str, Iterable[Rule]] = {kind: _of_worker(kind) for kind in WORKERS}
    found[GATEWAY] = _topics(_written_by({GATEWAY}), WRITE)
    found[PREPARE] = _of_prepare()
    found[APPLICATIONS] = _topics(_written_by({APPLICATIONS}), WRITE)
    found[CLIENTS] = (
        *_topics({OF_CLIENTS}, READ),
        Rule("group", f"chat4all-simulated-clients-{OF_CLIENTS}", (READ,)),
    )
    return {who: tuple(sorted(set(each))) for who, each in found.items()}


def _of_worker(kind: str) -> Iterable[Rule]:
    """Of every app of the worker: its topics, its groups, and the transactions that go under its name."""
    for app in (app for app, stages in APPS.items() if set(stages) <= set(WORKERS[kind])):
        stages, changelogs = set(APPS[app]), {changelog_topic(app_id(app), None)} if tables(app) else set()
        inner = INNER if len(stages) > 1 else frozenset()
        read = {name for name, topic in TOPICS.items() if stages & set(topic.consumers)} - inner | changelogs
        written = _written_by(stages) | changelogs
        mirrored = {each.topic for stage in kinds(app) for each in stage.mirrored}
        for name in read | written:
            looked_at = name in read - mirrored  # the cleanup policy of its sources and changelogs
            operations = (READ,) * (name in read) + (WRITE,) * (name in written) + (CONFIGS,) * looked_at
            yield Rule("topic", name, operations)
        yield Rule("group", app_id(app), (READ,))
        yield Rule("transactional_id", f"{app_id(app)}-", (WRITE,), is_prefix=True)
        # groups of readers that are no members: nothing is committed in their names
        own = {f"chat4all-mirror-{name}" for name in mirrored} | (
            {"chat4all-restore", "chat4all-ends"} if changelogs else set()
        )
        yield from (Rule("group", name, (READ,)) for name in own)


def _of_prepare() -> Iterable[Rule]:
    names = [*TOPICS, *(changelog_topic(app_id(app), None) for app in APPS if tables(app))]
    for name in names:
        yield Rule("topic", name, ("CREATE", "DESCRIBE", CONFIGS, "ALTER_CONFIGS"))
    yield Rule("topic", "chat4all-", ("DESCRIBE",), is_prefix=True)  # it looks for topics of an older layout


def _written_by(parties: set[str]) -> set[str]:
    return {name for name, topic in TOPICS.items() if parties & set(topic.producers)}


def _topics(names: Iterable[str], operation: str) -> tuple[Rule, ...]:
    return tuple(Rule("topic", name, (operation,)) for name in names)


def plain(found: Mapping[str, Iterable[Rule]]) -> dict[str, list[dict[str, object]]]:
    """The rules as JSON has them."""
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
