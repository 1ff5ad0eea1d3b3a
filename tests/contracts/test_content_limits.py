"""The capabilities of a channel are checked before the call: no delivery makes the check raise, and one that passes can be sent."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import content_check
from connectors.base import Capabilities
from connectors.instagram import bodies as instagram
from connectors.registry import CHANNELS
from connectors.whatsapp import bodies as whatsapp
from schemas.content import Content, Location, LongText, Media, Template
from schemas.records import KINDS, Delivery
from tests.contracts.test_registry import SETTINGS
from tests.support.builders import delivery, examples

META = ("whatsapp", "instagram")
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["", "x" * 1001, "é" * 501, "x" * 4097, "🌻" * 2049, "cut \ud83c", " " * 5000]
)
LINKS = st.sampled_from(["https://a.example/b.jpg", "ftp://a", "http://[", "https://", "https://a b", ""])
MIME_TYPES = st.sampled_from(["", "image/jpeg", "application/pdf", "audio/ogg; codecs=opus", "x"])
MEDIA = st.builds(
    Media,
    kind=st.sampled_from(["image", "document", "audio", "video", "sticker", "hologram", ""]),
    url=st.none() | LINKS,
    provider_media_id=st.none() | st.sampled_from(["1", "", "like_heart"]),
    mime_type=MIME_TYPES,
    filename=st.none() | TEXTS,
    size=st.none() | st.sampled_from([0, 1, 10**7, 10**9]),
)
DEGREES = st.floats() | st.sampled_from([0.0, 90.0, -180.0])
CONTENTS = st.builds(
    Content,
    media=st.lists(MEDIA, max_size=3).map(tuple),
    template=st.none() | st.builds(Template, name=TEXTS, language=TEXTS, body=st.lists(TEXTS, max_size=2).map(tuple)),
    location=st.none() | st.builds(Location, latitude=DEGREES, longitude=DEGREES, name=TEXTS, address=TEXTS),
    reply_to=st.none() | TEXTS,
    reaction=st.none() | TEXTS,
    long_text=st.sampled_from(LongText),
)
DELIVERIES = st.builds(
    delivery,
    kind=st.sampled_from((*KINDS, "hologram")),
    text=TEXTS,
    address=st.sampled_from(["", "1", "US.123", "\ud83c"]),
    account=st.just(""),
    content=st.none() | CONTENTS,
)


def body(channel: str, sent: Delivery, part: int) -> bytes:
    return orjson.dumps(instagram.body(sent, part) if channel == "instagram" else whatsapp.body(sent, part, None))


@pytest.mark.parametrize("channel", META)
@examples(150)
@given(sent=DELIVERIES)
def test_no_delivery_raises_and_one_that_passes_has_a_body_for_each_part(channel: str, sent: Delivery) -> None:
    parts = CHANNELS[channel].build(SETTINGS).parts(sent)
    refused = CHANNELS[channel].check(sent)
    assert parts >= 1
    if refused is None:
        assert parts <= content_check.MOST_PARTS
        assert all(len(body(channel, sent, part)) > 10 for part in range(parts))
    else:
        assert refused.reason
        assert "hologram" not in refused.reason


def test_a_file_with_a_provider_id_is_not_measured() -> None:
    known = Media("image", provider_media_id="1", size=10**9)
    assert CHANNELS["whatsapp"].check(delivery(kind="image", content=Content(media=(known,)))) is None


@pytest.mark.parametrize("channel", sorted(CHANNELS))
def test_the_declared_capabilities_are_consistent(channel: str) -> None:
    can: Capabilities = CHANNELS[channel].capabilities
    assert can.kinds <= set(KINDS)
    assert set(can.media) <= can.kinds
    assert can.text_limit > 0
    assert can.length("é🌻") >= 2
    assert not (can.delivered and not can.read)
