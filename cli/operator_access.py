"""Kafka access of the commands that an operator runs: erase, check and replay.

Enters: the settings. Leaves: the access of the user `operator` in a secured development stack, else that of the settings.
"""

import dataclasses

from cli.stack import folder_of
from pipelines.kafka_acls import APPLICATIONS, OPERATOR
from schemas.kafka_access import KafkaAccess
from schemas.secret_masking import MaskedText
from schemas.settings import Settings
from stack.kafka_users import password_file


def operator_access(settings: Settings) -> KafkaAccess:
    """The access of the operator: in a secured development stack that of its user for operators, else the settings' own."""
    access = settings.kafka
    if access.user != APPLICATIONS:
        return access
    file = password_file(folder_of(None), OPERATOR)
    if not file.exists():
        return access
    return dataclasses.replace(access, user=OPERATOR, password=MaskedText(file.read_text(encoding="ascii")))
