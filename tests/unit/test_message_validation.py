"""Messages that any channel might send, and messages that no channel could."""

import math

import pytest
from hypothesis import given

from schemas.content import Content, Location, LongText, Media, Template
from schemas.limits import MOST_MEDIA
from schemas.message_validation import contradiction
from schemas.records import KINDS
from tests.support.builders import examples
from tests.unit.test_codec import TEXT, values
from tests.unit.test_content_json import CONTENT

IMAGE = Media("image", url="https://shop.example/a.jpg")
VIDEO = Media("video", provider_media_id="1037543291543636")
TEMPLATE = Template("order_shipped", "pt_BR", body=("Ana",))
HERE = Location(-23.55052, -46.633308)

MEANS_SOMETHING = [
    ("text", "olá", None),
    ("text", "olá", Content(reply_to="wamid.1", long_text=LongText.SPLIT)),
    ("image", "a caption", Content(media=(IMAGE,))),
    ("video", "", Content(media=(VIDEO,), reply_to="wamid.1")),
    ("album", "both", Content(media=(IMAGE, VIDEO))),
    ("template", "", Content(template=TEMPLATE)),
    ("template", "", Content(template=TEMPLATE, media=(IMAGE,))),
    ("location", "", Content(location=HERE)),
    ("location", "", Content(location=Location(90, -180))),
    ("reaction", "", Content(reaction="👍", reply_to="wamid.1")),
    ("reaction", "", Content(reaction="", reply_to="wamid.1")),
    ("typing", "", None),
    ("mark_read", "", Content(reply_to="wamid.1")),
]
CANNOT = [
    ("hologram", "", None, "there is no kind 'hologram': use one of text, template,"),
    ("text", "x", Content(media=(IMAGE,)), "of kind text has a media"),
    ("text", "x", Content(location=HERE), "of kind text has a location"),
    ("image", "", None, "needs exactly one medium, of that kind; it has none"),
    ("image", "", Content(media=(VIDEO,)), "it has video"),
    ("image", "", Content(media=(IMAGE, IMAGE)), "it has image, image"),
    ("image", "", Content(media=(IMAGE,), template=TEMPLATE), "of kind image has a template"),
    ("image", "", Content(media=(Media("image"),)), "and has neither"),
    ("image", "", Content(media=(Media("image", url="https://x/", provider_media_id="7"),)), "and has both"),
    ("image", "", Content(media=(Media("image", url="", provider_media_id=""),)), "and has neither"),
    ("image", "", Content(media=(Media("image", url="file:///etc/passwd"),)), "not an http or https address"),
    ("image", "", Content(media=(Media("image", url="http://["),)), "not an http or https address"),
    ("image", "", Content(media=(Media("image", url="https://x/", size=-1),)), "has -1 bytes"),
    ("sticker", "x", Content(media=(Media("sticker", provider_media_id="7"),)), "of kind sticker has a text"),
    ("album", "", Content(media=(IMAGE,)), "this one has 1"),
    ("album", "", Content(media=(IMAGE,) * (MOST_MEDIA + 1)), "this one has 31"),
    ("album", "", Content(media=(IMAGE, Media("sticker", url="https://x/"))), "may not contain a sticker"),
    ("album", "", Content(media=(IMAGE, Media("hologram", url="https://x/"))), "there is no kind of media 'hologram'"),
    ("template", "", None, "needs a template with a name"),
    ("template", "", Content(template=Template("", "en")), "needs a template with a name"),
    ("template", "", Content(template=TEMPLATE, media=(IMAGE, IMAGE)), "at most one medium"),
    ("location", "", None, "needs a location"),
    ("location", "", Content(location=Location(90.001, 0)), "the location does not exist"),
    ("location", "", Content(location=Location(0, -180.5)), "the location does not exist"),
    ("location", "", Content(location=Location(math.nan, 0)), "the location does not exist"),
    ("location", "we are here", Content(location=HERE), "of kind location has a text"),
    ("reaction", "", Content(reaction="👍"), "needs the emoji"),
    ("reaction", "", Content(reply_to="wamid.1"), "needs the emoji"),
    ("typing", "…", None, "of kind typing has a text"),
    ("mark_read", "", Content(media=(IMAGE,)), "of kind mark_read has a media"),
]


@pytest.mark.parametrize(("kind", "text", "content"), MEANS_SOMETHING)
def test_a_consistent_message_is_accepted(kind: str, text: str, content: Content | None) -> None:
    assert contradiction(kind, text, content) is None


@pytest.mark.parametrize(("kind", "text", "content", "sentence"), CANNOT)
def test_a_contradictory_message_is_refused(kind: str, text: str, content: Content | None, sentence: str) -> None:
    found = contradiction(kind, text, content)
    assert found is not None
    assert sentence in found


def test_every_kind_has_a_valid_message() -> None:
    by_kind = {kind for kind, _, _ in MEANS_SOMETHING} | {"document", "audio", "sticker"}
    assert by_kind == set(KINDS)
    for kind in ("document", "audio", "sticker"):
        assert contradiction(kind, "", Content(media=(Media(kind, provider_media_id="7"),))) is None


@pytest.mark.parametrize("kind", [*KINDS, "", "hologram"])
@given(text=TEXT, content=values(CONTENT))
@examples(30)
def test_any_input_gives_a_sentence_or_none(kind: str, text: str, content: Content) -> None:
    found = contradiction(kind, text, content)
    assert found is None or 10 < len(found) < 500
