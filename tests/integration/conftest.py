"""Fixtures of several files: the toy stage with its topics on the shared Kafka, and an archive with a database of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sinks.postgres import PostgresArchive
from tests.support.engine_harness import Toy
from tests.support.sink_databases import postgres_database


@pytest.fixture
def toy(kafka_url: str, unique: str, tmp_path: Path) -> Iterator[Toy]:
    made = Toy(kafka_url, unique, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def without_cython(toy: Toy) -> None:
    """Faust's streams exist twice, and acknowledge in two ways; an engine beneath them must not care."""
    toy.extra["NO_CYTHON"] = "1"


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    with postgres_database(postgres_url) as url:
        yield url


@pytest.fixture
async def archive(url: str) -> AsyncIterator[PostgresArchive]:
    archive = PostgresArchive(url)
    await archive.open()
    yield archive
    await archive.close()
