"""A takeover while Kafka cannot serve one: tried again for a while, and stopped when a newer rebalance has come."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipelines.engine import takeover
from pipelines.engine.takeover import while_kafka_starts

NO_LEADERS = KafkaException(KafkaError(KafkaError._NOENT, "no leaders found"))


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "AGAIN_SECONDS", 0.001)


class Step:
    def __init__(self, failures: int) -> None:
        self.left = failures
        self.tried = 0

    async def __call__(self) -> None:
        self.tried += 1
        if self.left:
            self.left -= 1
            raise NO_LEADERS


async def test_a_step_is_done_again_until_a_broker_that_has_just_started_serves_it() -> None:
    step = Step(3)
    await while_kafka_starts(step, is_current=lambda: True, seconds=60)
    assert step.tried == 4


async def test_it_stops_when_a_newer_rebalance_has_come() -> None:
    step = Step(3)
    await while_kafka_starts(step, is_current=lambda: step.tried < 2, seconds=60)
    assert step.tried == 2


async def test_kafkas_own_error_is_raised_in_the_end() -> None:
    with pytest.raises(KafkaException, match="no leaders found"):
        await while_kafka_starts(Step(1000), is_current=lambda: True, seconds=0.01)
