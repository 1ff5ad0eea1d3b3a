"""The environment of a child that must know nothing of ours: no setting, no virtualenv, no make.

Enters: what it shall know besides. Leaves: a copy of the environment.
"""

import os
from collections.abc import Mapping

_OURS = ("CHAT4ALL_", "VIRTUAL_ENV", "MAKE", "MFLAGS")


def foreign(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without anything of this project, and with `extra`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)} | dict(extra)
