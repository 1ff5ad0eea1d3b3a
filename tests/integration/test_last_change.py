"""The place that last changed a row, found in a real changelog: the newest committed record of the key, or an honest "not found"."""

import asyncio

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported there, not in its __all__

from pipelines.engine import last_change
from pipelines.engine.last_change import ChangelogSearch, LastChange, SearchFailed
from schemas.kafka_access import KafkaAccess

KEYS = [f"timelines/k{n}".encode() for n in range(40)]


class Changelog:
    """A changelog with one partition, written in transactions."""

    def __init__(self, kafka_url: str, name: str) -> None:
        self.name = name
        self.access = KafkaAccess(kafka_url)
        admin = AdminClient(self.access.settings("test"))
        admin.create_topics([NewTopic(name, 1, 1, config={"cleanup.policy": "compact"})])[name].result(30)
        self.producer = Producer({**self.access.settings("test"), "transactional.id": name})
        self.producer.init_transactions(30)

    def write(self, *keys: bytes, commit: bool = True) -> list[int]:
        """A transaction; returns the offsets of its records."""
        offsets: list[int] = []
        self.producer.begin_transaction()
        for key in keys:
            self.producer.produce(
                self.name, b"row", key, on_delivery=lambda _, done: offsets.append(done.offset() or 0)
            )
        self.producer.flush(30)
        if commit:
            self.producer.commit_transaction(30)
        else:
            self.producer.abort_transaction(30)
        return offsets

    def find(self, key: bytes) -> LastChange:
        return asyncio.run(ChangelogSearch(self.access).find(self.name, 0, key))


@pytest.fixture
def changelog(kafka_url: str, unique: str) -> Changelog:
    return Changelog(kafka_url, unique)


def test_the_newest_committed_record_is_found(changelog: Changelog, monkeypatch: pytest.MonkeyPatch) -> None:
    newest: dict[bytes, int] = {}
    for n in range(60):  # with a marker after each transaction
        keys = KEYS[n % 7 : n % 7 + 3] if n else KEYS
        newest |= dict(zip(keys, changelog.write(*keys), strict=True))
    changelog.write(*KEYS, commit=False)
    for first_part in (1, 5, 10_000):
        monkeypatch.setattr(last_change, "FIRST_PART", first_part)
        for key in (KEYS[0], KEYS[5], KEYS[8], KEYS[20], KEYS[39]):
            found = changelog.find(key)
            assert found.offset == newest[key]
            assert found.at is not None
            assert found.at > 1_700_000_000_000
    assert changelog.find(b"timelines/never")[:3] == (None, None, 0)
    assert changelog.find(b"k1").offset is None, "the key of a table's row begins with the table"


def test_a_changelog_that_is_empty_or_too_long_has_no_place(
    changelog: Changelog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert changelog.find(KEYS[0]) == LastChange(None, None, 0, 0)
    changelog.write(*KEYS)
    monkeypatch.setattr(last_change, "SECONDS", 0.0001)
    with pytest.raises(SearchFailed, match="Kafka does not answer"):
        changelog.find(KEYS[0])


def test_only_one_search_at_a_time(changelog: Changelog, monkeypatch: pytest.MonkeyPatch) -> None:
    changelog.write(*KEYS)
    search = ChangelogSearch(changelog.access)

    async def several() -> list[LastChange]:
        return await asyncio.gather(*(search.find(changelog.name, 0, key) for key in KEYS[:3]))

    assert [found.offset for found in asyncio.run(several())] == [0, 1, 2]
    monkeypatch.setattr(last_change, "SECONDS", 0.05)

    async def while_another_searches() -> None:
        search = ChangelogSearch(changelog.access)
        async with search._one_at_a_time:
            await search.find(changelog.name, 0, KEYS[0])

    with pytest.raises(SearchFailed, match="other searches are under way"):
        asyncio.run(while_another_searches())
