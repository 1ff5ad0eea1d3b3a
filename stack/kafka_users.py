"""The users of a secured Kafka: their passwords and rights.

Enters: the access of an administrator, and rules by user (plain data: the plan knows the topics, this package does not). Leaves: SCRAM
users and ACLs in Kafka; a file for each password. Guaranteed: harmless to repeat; an existing password is kept; an ACL of an earlier
start that is in no rule any more is deleted.
"""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported there, not in its __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from schemas import private_files
from schemas.kafka_access import KafkaAccess

ITERATIONS = 4096
ASK_SECONDS = 30.0
Rules = Mapping[str, Sequence[Mapping[str, Any]]]
_RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional_id": ResourceType.TRANSACTIONAL_ID,
}


_ANY = AclBindingFilter(
    ResourceType.ANY,
    None,  # type: ignore[arg-type]  # None means any, but its types do not allow it
    ResourcePatternType.ANY,
    None,  # type: ignore[arg-type]  # the same
    None,  # type: ignore[arg-type]  # the same
    AclOperation.ANY,
    AclPermissionType.ANY,
)


def password_file(folder: Path, user: str) -> Path:
    """The file with the password of a Kafka user of the stack in `folder`."""
    return folder / "secrets" / f"kafka-{user}"


def passwords(folder: Path, users: Sequence[str]) -> dict[str, str]:
    """User -> password. Makes a password for each user that has none."""
    found = {}
    for user in users:
        file = password_file(folder, user)
        if not file.exists():
            private_files.make_folder(file.parent)
            private_files.write(file, secrets.token_hex(16))
        found[user] = file.read_text(encoding="ascii")
    return found


def apply(admin: KafkaAccess, known: Mapping[str, str], rules: Rules) -> None:
    """Makes or updates users with these passwords, and their ACLs. Blocks, at most 30 s for each request to Kafka. Raises
    KafkaException."""
    client: Any = AdminClient(admin.settings("stack"))
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    users = [UserScramCredentialUpsertion(user, scram, password.encode()) for user, password in known.items()]
    for future in client.alter_user_scram_credentials(users, request_timeout=ASK_SECONDS).values():
        future.result(timeout=ASK_SECONDS)
    wanted = bindings(rules)
    for future in client.create_acls(wanted, request_timeout=ASK_SECONDS).values():
        future.result(timeout=ASK_SECONDS)
    there = client.describe_acls(_ANY, request_timeout=ASK_SECONDS).result(timeout=ASK_SECONDS)
    unwanted = [_exactly(each) for each in there if each not in wanted]
    for future in client.delete_acls(unwanted, request_timeout=ASK_SECONDS).values() if unwanted else ():
        future.result(timeout=ASK_SECONDS)


def _exactly(each: Any) -> AclBindingFilter:
    return AclBindingFilter(
        each.restype,
        each.name,
        each.resource_pattern_type,
        each.principal,
        each.host,
        each.operation,
        each.permission_type,
    )


def bindings(rules: Rules) -> list[Any]:
    """The rules as Kafka's ACLs."""
    return [
        AclBinding(
            _RESOURCES[rule["resource"]],
            rule["name"],
            ResourcePatternType.PREFIXED if rule["is_prefix"] else ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )
        for user, of_user in rules.items()
        for rule in of_user
        for operation in rule["operations"]
    ]
