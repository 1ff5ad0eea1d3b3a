"""Kafka clients write nothing to standard error: our log reports their errors, and a closed client leaves no thread."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog
from confluent_kafka import Consumer, Producer

from pipelines.acknowledged_producer import AcknowledgedProducer
from schemas.kafka_access import KafkaAccess
from stack.ports import free_port
from tests.support.engine_harness import await_true


def threads() -> int:
    """The number of librdkafka's threads in this process."""
    names = [file.read_text(encoding="ascii") for file in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith("rdk:") for name in names)


async def test_a_gateway_without_kafka_logs_it_in_our_format_and_leaves_no_client(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = threads()
    with structlog.testing.capture_logs() as lines:
        producer = AcknowledgedProducer(KafkaAccess(f"127.0.0.1:{free_port()}"), asyncio.get_running_loop())
        assert threads() > before
        await asyncio.to_thread(await_true, lambda: bool(lines), "a line about the client", 20.0)
        await producer.close()
    assert [(line["log_level"], line["event"]) for line in lines] == [("warning", "Kafka's client has a problem")]
    assert threads() == before
    assert "%3|" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("kind", [Producer, Consumer])
def test_an_idle_client_is_silent(kind: Any, capfd: pytest.CaptureFixture[str]) -> None:
    errors: list[Any] = []
    settings = KafkaAccess(f"127.0.0.1:{free_port()}").settings("test", group_id="none")
    client = kind({**settings, "error_cb": errors.append})
    await_true(lambda: bool(client.poll(0.1) or errors), "the client to report that no broker answers", 20.0)
    assert "%3|" not in "".join(capfd.readouterr())
