"""What every sink can raise. Enters: what a driver raised. Leaves: three exceptions, each one sentence for a person, which quotes no row.

Guaranteed: after any of them the database holds either the whole batch or nothing of it, and repeating the batch is harmless.
"""

import itertools
import re

LONGEST = 300  # characters of what a driver says
_QUOTING = ("DETAIL:", "CONTEXT:", "LINE ")
_CREDENTIALS = re.compile(r'"[^"]*(?:@|password)[^"]*"')


class SinkFenced(Exception):
    """Another worker has written this partition since its position was read: this one must stop, and start again from there."""


def sentence(error: Exception) -> str:
    """What a driver says, in one line and without what it quotes: rows (DETAIL, CONTEXT), statements (LINE), and a URL or a list of
    parameters that it could not read."""
    said = itertools.takewhile(lambda line: not line.startswith(_QUOTING), str(error).splitlines())
    text = " ".join(" ".join(said).split())
    return _CREDENTIALS.sub('"***"', text)[:LONGEST] or type(error).__name__


class Unavailable(Exception):
    """The database cannot be reached or cannot serve now; the same batch may be tried again. The stage owns the waiting."""


class NotMigrated(Exception):
    """The database lacks our relations: run `python -m sinks.migrate`."""
