"""What every sink can raise. Enters: nothing. Leaves: three exceptions, each one sentence for a person.

Guaranteed: after any of them the database holds either the whole batch or nothing of it, and repeating the batch is harmless.
"""


class Fenced(Exception):
    """Another worker has written this partition since its position was read: this one must stop, and start again from there."""


class Unavailable(Exception):
    """The database cannot be reached or cannot serve now; the same batch may be tried again. The stage owns the waiting."""


class NotMigrated(Exception):
    """The database lacks our relations: run `python -m sinks.migrate`."""
