"""The users of a secured Kafka: their passwords, and what each may do.

Enters: a client that may do everything, and rules by user (plain data: whoever makes the plan knows topics, this room does not). Leaves:
users that SCRAM knows and ACLs; a file for each password. Guaranteed: harmless to repeat; a password that exists is kept; an ACL of an
earlier start that no rule says any more is taken back.
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
    None,  # type: ignore[arg-type]  # its types leave out that None is any
    ResourcePatternType.ANY,
    None,  # type: ignore[arg-type]  # the same
    None,  # type: ignore[arg-type]  # the same
    AclOperation.ANY,
    AclPermissionType.ANY,
)


def password_file(folder: Path, user: str) -> Path:
    """Where the password of a user of the stack in `folder` is."""
    return folder / "secrets" / f"kafka-{user}"


def passwords(folder: Path, users: Sequence[str]) -> dict[str, str]:
    """Of each user; made where there is none yet."""
    found = {}
    for user in users:
        file = password_file(folder, user)
        if not file.exists():
            private_files.make_folder(file.parent)
            private_files.write(file, secrets.token_hex(16))
        found[user] = file.read_text(encoding="ascii")
    return found


def apply(admin: KafkaAccess, known: Mapping[str, str], rules: Rules) -> None:
    """Makes users with these passwords, and lets each do what its rules say. Blocks; raises KafkaException."""
    client: Any = AdminClient(admin.settings("stack"))
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    users = [UserScramCredentialUpsertion(user, scram, password.encode()) for user, password in known.items()]
    for future in client.alter_user_scram_credentials(users, request_timeout=ASK_SECONDS).values():
        future.result(timeout=ASK_SECONDS)
    wanted = bindings(rules)
    for future in client.create_acls(wanted, request_timeout=ASK_SECONDS).values():
        future.result(timeout=ASK_SECONDS)
    there = client.describe_acls(_ANY, request_timeout=ASK_SECONDS).result(timeout=ASK_SECONDS)
    unsaid = [_exactly(each) for each in there if each not in wanted]
    for future in client.delete_acls(unsaid, request_timeout=ASK_SECONDS).values() if unsaid else ():
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
