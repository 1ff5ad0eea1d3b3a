"""Fixtures of the engine's tests: the toy stage with its topics, on the shared Kafka."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine_harness import Toy


@pytest.fixture
def toy(kafka_url: str, unique: str, tmp_path: Path) -> Iterator[Toy]:
    made = Toy(kafka_url, unique, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def without_cython(toy: Toy) -> None:
    """Faust's streams exist twice, and acknowledge in two ways; an engine beneath them must not care."""
    toy.extra["NO_CYTHON"] = "1"
