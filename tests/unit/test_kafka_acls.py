"""The ACLs of each process match what its code does: no topic less, no topic more."""

import pytest

from pipelines.engine.kafka_names import app_id, changelog_topic
from pipelines.kafka_acls import APPLICATIONS, CLIENTS, GATEWAY, OPERATOR, PREPARE, Rule, plain, rules
from pipelines.polling_group import PollingGroup
from pipelines.stages import WORKERS, apps
from pipelines.topics import POLLING, declared
from schemas.kafka_access import KafkaAccess
from schemas.settings import Settings
from stack.kafka_users import bindings
from tests.unit.test_schemas import EVERY_CHANNEL


def names(who: str, operation: str, resource: str = "topic") -> set[str]:
    return {rule.name for rule in rules()[who] if rule.resource == resource and operation in rule.operations}


@pytest.mark.parametrize("kind", sorted(WORKERS))
def test_a_worker_may_read_what_its_apps_read(kind: str) -> None:
    built = apps(kind, Settings.model_validate({"kafka_url": "127.0.0.1:1", **EVERY_CHANNEL}))
    sources = {source.topic for app in built for source in app.sources}
    mirrored = {each.topic for app in built for each in app.mirrored}
    changelogs = {changelog_topic(app_id(app.name), None) for app in built if app.tables}
    assert names(kind, "READ") == sources | mirrored | changelogs
    assert changelogs <= names(kind, "WRITE")
    groups = {app_id(app.name) for app in built} | {f"chat4all-mirror-{topic}" for topic in mirrored}
    assert groups <= names(kind, "READ", "group")
    writers = [rule for rule in rules()[kind] if rule.resource == "transactional_id"]
    assert {rule.name for rule in writers} == {f"{app_id(app.name)}-" for app in built}
    assert all(rule.is_prefix for rule in writers)


def test_prepare_may_create_what_is_declared_and_write_nothing() -> None:
    assert names(PREPARE, "CREATE") == {topic.topic for topic in declared(Settings())}
    assert names(PREPARE, "WRITE") == names(PREPARE, "READ") == set()


def test_processes_that_are_no_workers_may_do_little() -> None:
    assert names(APPLICATIONS, "READ") == set()
    assert names(GATEWAY, "READ") == {POLLING}  # which has no records
    assert names(APPLICATIONS, "WRITE") == {"messages", "contacts", "conversations"}
    assert "inbound" in names(GATEWAY, "WRITE")
    assert names(OPERATOR, "WRITE") == {"erasures", "contacts"}
    assert names(OPERATOR, "READ") == {"conversation-log", "conversations", "cursors", "delivery-states"}
    assert names(OPERATOR, "READ", "group") == {"chat4all-check", "chat4all-replay"}
    assert [who for who in rules() if "erasures" in names(who, "WRITE")] == [OPERATOR]
    assert [rule.operations for rule in rules()[CLIENTS]] == [("READ",), ("READ",)]
    assert not any(rule.is_prefix for who in (APPLICATIONS, CLIENTS) for rule in rules()[who])


def test_the_gateway_may_poll_any_account_and_no_other_group_is_open_to_it() -> None:
    group = PollingGroup(KafkaAccess("127.0.0.1:1"), "telegram", "4242", 6.0)
    prefixes = {(rule.resource, rule.name, rule.operations) for rule in rules()[GATEWAY] if rule.is_prefix}
    assert prefixes == {
        ("group", "chat4all-polling-", ("READ",)),
        ("transactional_id", "chat4all-polling-", ("WRITE",)),
    }
    assert group.name.startswith("chat4all-polling-")
    assert not names(GATEWAY, "READ", "group") - {"chat4all-polling-"}
    group.leave()


def test_the_rules_become_acls_one_to_one() -> None:
    found = rules()
    made = bindings(plain(found))
    assert len(made) == len(set(made)) == sum(len(rule.operations) for each in found.values() for rule in each)
    assert Rule("topic", "messages", ("WRITE",)) in found[APPLICATIONS]
