"""Content as JSON: it is the same after both steps, and rows without new fields can be read."""

import orjson
from hypothesis import given

from schemas import content_json
from schemas.catalog import newest
from schemas.content import Content, Location, Media
from tables.outstanding import OUTSTANDING, Outstanding
from tables.seen import digest
from tests.support.builders import delivery, examples, message
from tests.unit.test_codec import values

CONTENT = newest("Message").definition["fields"][-1]["type"][1]
IMAGE = Content(media=(Media("image", url="https://shop.example/a.jpg"),))


@given(values(CONTENT))
@examples(100)
def test_content_comes_back_from_json_as_it_was(found: Content) -> None:
    assert content_json.from_json(orjson.loads(orjson.dumps(content_json.as_json(found)))) == found


def test_the_json_leaves_out_defaults() -> None:
    assert content_json.as_json(IMAGE) == {"media": [{"kind": "image", "url": "https://shop.example/a.jpg"}]}
    assert content_json.as_json(Content()) == {}
    assert content_json.as_json(None) is None
    assert content_json.from_json(None) is None


def test_unknown_fields_are_dropped() -> None:
    newer = {"mood": "good", "location": {"latitude": 1.5, "longitude": 2.5, "altitude": 3}}
    assert content_json.from_json(newer) == Content(location=Location(1.5, 2.5))


def test_an_outstanding_delivery_keeps_its_content() -> None:
    row = Outstanding(delivery(kind="image", content=IMAGE), ("deliveries.whatsapp", 1, 2))
    assert OUTSTANDING.decode(OUTSTANDING.encode(row)) == row


def test_another_content_has_another_digest_and_no_content_has_the_old_one() -> None:
    assert digest(message()).hex() == "0ef117ee22a76fee"
    assert len({digest(message()), digest(message(content=IMAGE)), digest(message(content=Content()))}) == 3
