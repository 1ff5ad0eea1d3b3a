"""The question where changelogs end: one at a time, whoever asks and gives up."""

import asyncio
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipelines.engine.changelog_ends import ChangelogEnds, TopicPart


def test_who_asks_meanwhile_gets_the_same_answer() -> None:
    asked: list[list[TopicPart]] = []
    goes_on = threading.Event()

    def ends(partitions: list[TopicPart]) -> dict[TopicPart, int]:
        asked.append(partitions)
        assert goes_on.wait(10)
        return dict.fromkeys(partitions, len(asked))

    async def run() -> None:
        found = ChangelogEnds(ends)
        impatient = [asyncio.create_task(asyncio.wait_for(found.of([("log", 0)]), 0.01)) for _ in range(20)]
        assert all(isinstance(each, TimeoutError) for each in await asyncio.gather(*impatient, return_exceptions=True))
        waiting = asyncio.create_task(found.of([("log", 0)]))
        await asyncio.sleep(0)
        goes_on.set()
        assert await waiting == {("log", 0): 1}
        assert await found.of([("log", 1)]) == {("log", 1): 2}

    asyncio.run(run())
    assert asked == [[("log", 0)], [("log", 1)]]


def test_an_error_reaches_who_asked_and_the_next_question_is_asked_again() -> None:
    answers: list[dict[TopicPart, int] | Exception] = [
        KafkaException(KafkaError(KafkaError._TRANSPORT)),
        {("log", 0): 5},
    ]

    def ends(_: list[TopicPart]) -> dict[TopicPart, int]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run() -> None:
        found = ChangelogEnds(ends)
        with pytest.raises(KafkaException):
            await found.of([("log", 0)])
        assert await found.of([("log", 0)]) == {("log", 0): 5}

    asyncio.run(run())
