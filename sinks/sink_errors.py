"""The exceptions of all sinks, and their text.

Enters: a driver's exception. Leaves: SinkFenced, Unavailable or NotMigrated, each with one sentence for a person, without any row.
Guaranteed: after each of them the database holds the whole batch or nothing of it, and repeating the batch is harmless.
"""

import itertools
import re

LONGEST = 300  # characters of a driver's text
_QUOTING = ("DETAIL:", "CONTEXT:", "LINE ")
_CREDENTIALS = re.compile(r'"[^"]*(?:@|password)[^"]*"')


class SinkFenced(Exception):
    """Another worker has written this partition since this one read its position. This worker must not write it any more: it stops, and
    reads the position again when it gets the partition again."""


def sentence(error: Exception) -> str:
    """A driver's text in one line, without its quotations: rows (DETAIL, CONTEXT), statements (LINE), and a URL or parameters that it could
    not parse."""
    lines = itertools.takewhile(lambda line: not line.startswith(_QUOTING), str(error).splitlines())
    text = " ".join(" ".join(lines).split())
    return _CREDENTIALS.sub('"***"', text)[:LONGEST] or type(error).__name__


class Unavailable(Exception):
    """The database cannot be reached, refuses the connection, or cannot serve now. The same batch may be tried again; the stage decides
    when."""


class NotMigrated(Exception):
    """The database has no relations of ours: run `python -m sinks.migrate`. Retrying does not help until then."""
