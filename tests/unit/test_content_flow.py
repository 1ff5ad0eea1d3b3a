"""Content, end to end: from a webhook or a producer, through route and send, to the connector, and out of the tables after a restart."""

from connectors.base import Inbound
from pipelines import gateway
from pipelines.match import Match
from pipelines.recipients import Reachable
from pipelines.route import Route
from pipelines.send import Send
from pipelines.send_state import SendLimits
from schemas import codec
from schemas.content import Content, Location, Media
from schemas.records import Delivery, Direction, Message, SequencedMessage
from tests.support.builders import NOW, PARTITIONS, Desk, decoded, message, raw, record
from tests.support.counting_provider import Provider

IMAGE = Content(media=(Media("image", url="https://shop.example/a.jpg"),), reply_to="wamid.0")
CHECKLESS = {"whatsapp": Reachable("acc-1", lambda _: None)}
LIMITS = SendLimits(concurrency=4, outstanding=100, attempts=3, hold_ms=1000)


def test_what_a_producer_sends_reaches_the_call_and_survives_a_restart() -> None:
    route = Desk(Route(partitions=PARTITIONS, dedupe_ms=1000, channels=CHECKLESS))
    sent = message(kind="image", text="a caption", content=IMAGE)
    outputs = route.turn([record("messages", sent)]).outputs
    (logged,) = decoded(outputs, "conversation-log", SequencedMessage)
    (delivery,) = decoded(outputs, "deliveries.whatsapp", Delivery)
    assert [(each.kind, each.text, each.content) for each in (logged, delivery)] == [("image", "a caption", IMAGE)] * 2
    send = Desk(Send(connectors={"whatsapp": Provider("whatsapp", "hold")}, limits=LIMITS))
    send.turn([record("deliveries.whatsapp", delivery)], closing=True)
    send.restart(Send(connectors={"whatsapp": Provider("whatsapp", "hold")}, limits=LIMITS))
    (call,) = send.turn().calls
    assert call.request.delivery == delivery


def test_what_a_person_writes_keeps_its_content_whatever_it_is() -> None:
    """Kinds of inbound messages are the provider's; none is refused."""
    inbound = Inbound(
        "whatsapp", "acc-1", "15550001", "wamid.1", "live_location", "", NOW, Content(location=Location(1.5, 2.5))
    )
    topic, key, value, _ = gateway._inbound(inbound, NOW)
    match = Desk(Match(partitions=PARTITIONS, binding_ms=1000, orphan_ms=1000))
    (output,) = match.turn([raw(topic, value, key=key)]).outputs
    produced = codec.decode(output.value, Message)
    assert (produced.direction, produced.kind, produced.content) == (
        Direction.INBOUND,
        "live_location",
        inbound.content,
    )
    route = Desk(Route(partitions=PARTITIONS, dedupe_ms=1000, channels=CHECKLESS), output.partition or 0)
    decision = route.turn([raw(output.topic, output.value, key=output.key)])
    (logged,) = decoded(decision.outputs, "conversation-log", SequencedMessage)
    assert (logged.kind, logged.content, logged.deliveries) == ("live_location", inbound.content, ())
