"""Real servers for the tests: each fixture starts its server once per session, when the first test asks for it.

A server whose CHAT4ALL_<NAME>_URL is set in the environment is not started; the tests use that one. Tests share the servers, so they
make topics, tables, keys and buckets with names of their own (fixture `unique`).
"""

import logging
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from connectors import call_log
from schemas.settings import Settings
from stack.replaced import EnvironmentSettings, replaced
from stack.servers import SERVERS
from stack.service import Child
from tests.support import leaks
from tests.support.builders import CHECKS

pytest_runtest_makereport = leaks.pytest_runtest_makereport  # pytest finds its hooks here
# For properties without settings of their own: the same examples in every run, and no time limit, because the machines are shared.
hypothesis_settings.register_profile(
    "house", derandomize=True, database=None, deadline=None, suppress_health_check=CHECKS
)
hypothesis_settings.load_profile("house")
ServerSettings = Callable[[str], dict[str, str]]


@pytest.fixture(scope="session", autouse=True)
def _no_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every call to a provider is logged, and no log of any process the tests start may hold a text or a secret."""
    call_log.LOGGER.setLevel(logging.INFO)
    yield
    assert leaks.in_files(tmp_path_factory.getbasetemp()) == []


@pytest.fixture(scope="session", autouse=True)
def _no_running_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Settings() in a test must never reach a stack somebody left running in this folder."""
    before = os.environ.get("CHAT4ALL_STATE")
    os.environ["CHAT4ALL_STATE"] = str(tmp_path_factory.getbasetemp() / "no-stack.json")
    yield
    if before is None:
        del os.environ["CHAT4ALL_STATE"]
    else:
        os.environ["CHAT4ALL_STATE"] = before


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Children of a test must be able to get SIGINT, also where the tests were started in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerSettings]:
    """Starts a server by name, once, and gives its settings."""
    folder: Path = tmp_path_factory.mktemp("stack")
    children: dict[str, Child] = {}

    def settings_of(name: str) -> dict[str, str]:
        if name in replaced():
            given = EnvironmentSettings()
            keys = {"s3_access_key": given.s3_access_key, "s3_secret_key": given.s3_secret_key.get_secret_value()}
            return {f"{name}_url": replaced()[name], **(keys if name == "s3" else {})}
        if name not in children:
            children[name] = Child(SERVERS[name](folder / name))
            children[name].start()
            children[name].wait()
        return dict(children[name].service.settings)

    yield settings_of
    for child in reversed(children.values()):
        child.stop()
    found = leaks.in_files(folder)
    shutil.rmtree(folder, ignore_errors=True)
    assert found == []


@pytest.fixture(scope="session")
def kafka_url(_server: ServerSettings) -> str:
    """Bootstrap servers of a running Kafka."""
    return _server("kafka")["kafka_url"]


@pytest.fixture(scope="session")
def postgres_url(_server: ServerSettings) -> str:
    """URL of a running PostgreSQL; its user may create databases."""
    return _server("postgres")["postgres_url"]


@pytest.fixture(scope="session")
def clickhouse_url(_server: ServerSettings) -> str:
    """HTTP URL of a running ClickHouse."""
    return _server("clickhouse")["clickhouse_url"]


@pytest.fixture(scope="session")
def valkey_url(_server: ServerSettings) -> str:
    """URL of a running Valkey."""
    return _server("valkey")["valkey_url"]


@pytest.fixture(scope="session")
def s3(_server: ServerSettings) -> dict[str, str]:
    """s3_url, s3_access_key and s3_secret_key of a running S3."""
    return _server("s3")


@pytest.fixture(scope="session")
def all_settings(
    kafka_url: str, postgres_url: str, clickhouse_url: str, valkey_url: str, s3: dict[str, str]
) -> Settings:
    """Settings of all five servers, with those that a stack starts only on request."""
    urls = {
        "kafka_url": kafka_url,
        "postgres_url": postgres_url,
        "clickhouse_url": clickhouse_url,
        "valkey_url": valkey_url,
    }
    return Settings.model_validate({**urls, **s3, "partitions": 4})


@pytest.fixture
def unique() -> str:
    """A name no other test uses, good for topics, databases, keys and buckets."""
    return f"t{uuid.uuid4().hex[:12]}"
