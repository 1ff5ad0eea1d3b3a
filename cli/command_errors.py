"""How a command ends when it cannot do its work: one sentence on standard error, and no traceback.

Enters: a sentence. Leaves: exit code 1 when the answer is no, 2 when the question could not be asked. cli/main.py reports missing settings.
"""

import sys
from typing import NoReturn

import typer

from schemas.settings import Settings

NO = 1
NOT_ASKED = 2


def fail(sentence: str, code: int = NOT_ASKED) -> NoReturn:
    """Prints the sentence and ends the command with that exit code; never returns."""
    print(" ".join(sentence.split()), file=sys.stderr)
    raise typer.Exit(code)


def settings_with(*names: str) -> Settings:
    """The settings. Raises MissingSetting, with one line of text, when one of `names` is not set."""
    settings = Settings()
    settings.require(*names)
    return settings
