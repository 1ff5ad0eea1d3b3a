"""What the pages of the views are tested with, and shown with in the docs: a shop's conversation with three people in which everything
happens, and a conversation whose ids try to be HTML.

Enters: a running stack with the simulators. Leaves: messages in Kafka. The people do not exist.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from confluent_kafka import Producer

from cli.dev_stack import compose
from schemas import codec
from schemas.keys import conversation_key, key_of
from schemas.partitions import home_partition
from schemas.records import Address, Contact, Conversation, Message, Recipient
from schemas.settings import Settings
from stack import control
from stack.state import StackState, state_path
from tests.support.engine_harness import await_true

PEOPLE = {"ana": ("whatsapp", "15550001042"), "bruno": ("telegram", "5550101"), "carla": ("internal", "carla-phone")}
PERSON = PEOPLE["ana"][1]
TEXT = "your order has left the warehouse"
MARKUP = """<script>document.title='run'</script>"'><img src=x onerror=alert(1)>&amp; {{ 7*7 }} é 日本"""
LONG = "W" * 120
DAY_MS = 86_400_000


def conversation_elsewhere(name: str, held: set[int], partitions: int) -> str:
    """A conversation id that begins with `name` and whose home partition is none of those that are held."""
    ids = (name if not n else f"{name}-{n}" for n in range(1000))
    return next(id_ for id_ in ids if home_partition(conversation_key("default", id_), partitions) not in held)


class Shop:
    """The application of the scenario."""

    def __init__(self, settings: Settings, simulators: dict[str, str]) -> None:
        self._producer = Producer({**settings.kafka.settings("tests"), "partitioner": "murmur2_random"})
        self._simulators = simulators

    def open(self, conversation_id: str, tenant: str = "default") -> None:
        now = int(time.time() * 1000)
        for user_id, (channel, address) in PEOPLE.items():
            self._send(
                "contacts",
                Contact(
                    tenant_id=tenant,
                    user_id=user_id,
                    addresses=(Address(channel=channel, address=address),),
                    updated_at=now,
                ),
                user_id,
            )
        self._send(
            "conversations",
            Conversation(tenant_id=tenant, conversation_id=conversation_id, members=tuple(PEOPLE), updated_at=now),
        )
        assert self._producer.flush(30) == 0

    def write(self, conversation_id: str, message_id: str, *to: str, **fields: Any) -> None:
        """A message to the people, or to all members."""
        whole: dict[str, Any] = {"text": TEXT, "requested_at": int(time.time() * 1000)} | fields
        recipients = tuple(Recipient(user_id=name) for name in to)
        self._send(
            "messages", Message(conversation_id=conversation_id, message_id=message_id, recipients=recipients, **whole)
        )
        assert self._producer.flush(30) == 0

    def write_to_address(self, conversation_id: str, message_id: str) -> None:
        to = Recipient(channel="whatsapp", address=PERSON)
        now = int(time.time() * 1000)
        self._send(
            "messages",
            Message(
                conversation_id=conversation_id, message_id=message_id, recipients=(to,), text=MARKUP, requested_at=now
            ),
        )
        assert self._producer.flush(30) == 0

    def misbehave(self, provider: str, **knobs: float) -> None:
        """Sets knobs of a simulator (simulators/misbehaviour.py)."""
        request = urllib.request.Request(
            f"{self._simulators[provider]}/_control/faults", json.dumps(knobs).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def _send(self, topic: str, record: Any, key: str | None = None) -> None:
        self._producer.produce(topic, codec.encode(record), key_of(record) if key is None else key)


def let_it_happen(shop: Shop, conversation_id: str) -> None:
    """Messages that are read, one that fails, one for later, and a lane that waits for a throttled account."""
    shop.open(conversation_id)
    time.sleep(1.0)  # contacts and members come before the messages that need them
    for number, kind in enumerate(("placed", "paid", "packed", "shipped"), 1):
        shop.write(conversation_id, f"order-{kind}", text=f"{number}: {TEXT}")
        time.sleep(0.4)
    shop.misbehave("whatsapp", reject_rate=1.0)
    shop.write(conversation_id, "voucher", "ana")
    time.sleep(1.0)
    shop.misbehave("whatsapp", reject_rate=0.0)
    shop.write(conversation_id, "review-request", "ana", "carla", not_before=int(time.time() * 1000) + 2 * DAY_MS)
    shop.misbehave("telegram", throttle_rate=1.0, retry_after_seconds=1800.0)
    for part in ("delivered", "receipt", "thanks"):
        shop.write(conversation_id, f"order-{part}")
        time.sleep(0.6)


class Shown(NamedTuple):
    """The stack, and what the shop has written. `asked` does not hold the conversation; `owner` does."""

    folder: Path
    state: StackState
    asked: str
    owner: str
    conversation: str
    token: str

    def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.asked + path, headers=headers), timeout=20
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", "tables", *arguments],
            env=os.environ | {"CHAT4ALL_STATE": str(state_path(self.folder))},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def json_of(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


@contextmanager
def shop_stack(folder: Path) -> Iterator[Shown]:
    """A stack with two workers of core, and everything that happens in the shop's conversation."""
    state = control.start(folder, compose(folder, workers={"core": 2}), lambda _: None)
    try:
        yield _prepared(folder, state)
    finally:
        control.stop(folder)


def _prepared(folder: Path, state: StackState) -> Shown:
    settings = Settings.model_validate(state.settings)
    parts = {service.name: service.parts for service in state.services}
    workers = [parts[name]["views"] for name in ("core", "core-2")]

    def held(url: str) -> set[int]:
        return {int(number) for number in json_of(f"{url}/tables/")[0]["rows"]}

    await_true(lambda: all(len(held(url)) == 2 for url in workers), "two workers with two partitions each", 60)
    shop = Shop(settings, parts["simulators"])
    conversation = conversation_elsewhere("order-1042", held(workers[0]), settings.partitions)
    let_it_happen(shop, conversation)
    shop.write_to_address(MARKUP, MARKUP[:128])
    shop.write_to_address(LONG, LONG)
    token = settings.web_full_token.get_secret_value()
    found = Shown(folder, state, workers[0], workers[1], conversation, token)
    await_true(lambda: _is_complete(found), "the whole story", 30)
    return found


def _is_complete(found: Shown) -> bool:
    status, document = found.get(f"/conversations/{found.conversation}")
    others = [found.get(f"/conversations/{quote(each, safe='')}") for each in (MARKUP, LONG)]
    read = [each["messages"][0]["deliveries"][0]["status"] for status, each in others if status == 200]
    return status == 200 and document["seq"] == 9 and document["lanes_number"] == 1 and read == ["READ", "READ"]
