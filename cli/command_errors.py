"""How a command answers when it cannot do what was asked: one sentence on standard error, and no traceback.

Enters: a sentence. Leaves: exit code 1 when the answer is no, 2 when it could not be asked. A missing setting ends in cli/main.py.
"""

import sys
from typing import NoReturn

import typer

from schemas.settings import Settings

NO = 1
NOT_ASKED = 2


def fail(sentence: str, code: int = NOT_ASKED) -> NoReturn:
    """Ends the command."""
    print(" ".join(sentence.split()), file=sys.stderr)
    raise typer.Exit(code)


def settings_with(*names: str) -> Settings:
    """The settings; raises MissingSetting, one line, when one of those named is not set."""
    settings = Settings()
    settings.require(*names)
    return settings
