"""A message by pigeon through every stage, and the loft's webhook: runs inside the copy that test_toy_channel.py makes."""

from cli.load_run import LAST_SIGNS
from cli.message import recipient
from connectors.base import WebhookRequest
from connectors.registry import CHANNELS
from loadgen.scenario import Scenario
from pipelines.engine.stage import Result
from pipelines.gateway import _inbound, _receipt
from pipelines.stages import BUILDERS
from schemas.records import Binding, Delivery, DeliveryState, SequencedMessage, Status, StatusUpdate
from schemas.settings import Settings
from tests.support.builders import NOW, PARTITIONS, Desk, decoded, message, raw, record
from tests.support.scripted import scripted

LANDED = b'{"landed": [{"ring": "r-1"}], "notes": [{"from": "roof-3", "ring": "r-2", "note": "thank you"}]}'


async def test_a_message_by_pigeon_is_delivered() -> None:
    async with scripted([{"status": 200, "json": {"ring": "r-1"}}]) as script:
        own = {"pigeon_url": script.url, "pigeon_loft": "loft-7", "pigeon_token": "coo"}
        settings = Settings.model_validate({"kafka_url": "127.0.0.1:1", "partitions": PARTITIONS, **own})
        route, send, match, track = (Desk(BUILDERS[name](settings)) for name in ("route", "send", "match", "track"))

        routed = route.turn([record("messages", message(recipients=(recipient("pigeon:roof-3"),)))]).outputs
        (logged,) = decoded(routed, "conversation-log", SequencedMessage)
        (delivery,) = decoded(routed, "deliveries.pigeon", Delivery)
        asked = send.turn([record("deliveries.pigeon", delivery)])
        sent = send.turn(results=[Result(call, await send.stage.perform(call)) for call in asked.calls]).outputs
        await send.stage.stop()
    assert delivery.account == "loft-7"
    track.turn(
        [
            record("conversation-log", logged),
            *(record("status-updates", each) for each in decoded(sent, "status-updates", StatusUpdate)),
        ]
    )

    connector = CHANNELS["pigeon"].build(settings)
    items = connector.parse_webhook(WebhookRequest("POST", {}, {"x-loft-token": "coo"}, LANDED), NOW + 5000)
    topic, key, value, _ = _receipt(items.receipts[0], PARTITIONS)
    matched = match.turn(
        [*(record("bindings", each) for each in decoded(sent, "bindings", Binding)), raw(topic, value, key=key)]
    )
    tracked = track.turn(
        [record("status-updates", each) for each in decoded(matched.outputs, "status-updates", StatusUpdate)]
    )
    (state,) = decoded(tracked.outputs, "delivery-states", DeliveryState)
    assert (state.channel, state.status, state.provider_message_id) == ("pigeon", Status.DELIVERED, "r-1")

    topic, key, value, _ = _inbound(items.inbound[0], NOW)
    (found,) = (
        each for each in match.turn([raw(topic, value, key=key)]).outputs if each.topic == "conversation-inbound"
    )
    assert found.partition is not None
    home = Desk(BUILDERS["route"](settings), found.partition)
    routed = home.turn([raw(found.topic, found.value, key=found.key)]).outputs
    (kept,) = decoded(routed, "conversation-log", SequencedMessage)
    assert (kept.text, kept.sender, kept.deliveries) == ("thank you", "roof-3", ())


def test_a_load_run_and_its_monitor_know_the_pigeon() -> None:
    assert LAST_SIGNS["pigeon"] == "DELIVERED"
    scenario = Scenario(run="r1", seed=1, count=20, channels=("pigeon", "telegram"))
    assert {channel for each in scenario.messages() for channel, _ in each.expected} == {"pigeon", "telegram"}
