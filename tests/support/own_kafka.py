"""A Kafka for the tests of one file, with all topics of the product in two partitions.

Enters: a folder. Leaves: the running server, which a test may stop and start again.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import topics
from schemas.settings import Settings
from stack import kafka_server
from stack.service import Child


@contextmanager
def own_kafka(folder: Path) -> Iterator[Child]:
    """Blocks until the server is ready and has the topics; it ends with the block."""
    child = Child(kafka_server.service(folder / "kafka", heap="512m"))
    child.start()
    child.wait()
    # a second start does not format the data again
    child.service = dataclasses.replace(child.service, steps=child.service.steps[-1:])
    topics.create(Settings.model_validate({**child.service.settings, "partitions": 2}))
    try:
        yield child
    finally:
        child.stop()
