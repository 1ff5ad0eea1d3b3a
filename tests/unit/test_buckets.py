"""Buckets behave like a dict and take less memory; a delivery's row is as small as tables/timeline_layout.py says."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from schemas.records import CHANNELS
from tables.stores import buckets
from tables.stores.buckets import Buckets
from tables.timeline_layout import PACKED, TIMELINES
from tables.timelines import KEPT_EVENTS, Timeline, digest_of
from tests.support.builders import NOW, examples

# Keys that are parts of one another, and values that hold a whole pair of another key.
_KEYS = st.sampled_from([b"", b"a", b"ab", b"b", b"\x01\x00", *(b"key-%d" % n for n in range(12))])
_VALUES = st.one_of(
    st.binary(max_size=8),
    _KEYS.map(lambda key: buckets._SIZES.pack(len(key), 1) + key + b"!"),
    st.integers(buckets.LARGE - 1, buckets.LARGE + 1).map(bytes),
)
_STEPS = st.lists(st.tuples(_KEYS, st.none() | _VALUES), max_size=60)


@examples(200)
@given(steps=_STEPS)
def test_buckets_behave_like_a_dict(steps: list[tuple[bytes, bytes | None]]) -> None:
    found, model = Buckets(), dict[bytes, bytes]()
    for key, value in steps:
        if value is None:
            found.delete(key)
            model.pop(key, None)
        else:
            found.put(key, value)
            model[key] = value
        assert (len(found), found.get(key), key in found) == (len(model), model.get(key), key in model)
    assert dict(found.items()) == model
    assert [key for each in model for key in found.keys_of(hash(each)) if key == each] == list(model)
    assert set(found._large) <= set(model), "nothing is left of a large value"


def test_buckets_stay_small_with_many_pairs_added_and_removed() -> None:
    held = Buckets()
    for n in range(20_000):
        held.put(b"%032x" % n, bytes(200))
    assert len(held) == 20_000
    assert max(map(len, held._buckets)) < 40 * 236, "few pairs in one bucket"
    beyond = sum(map(sys.getsizeof, held._buckets)) + sys.getsizeof(held._buckets) - 20_000 * 232
    assert beyond < 20 * 20_000, "bytes per pair beyond the pair"
    for n in range(20_000):
        held.delete(b"%032x" % n)
    assert (len(held), set(held._buckets)) == (0, {b""})


# --- rows of timelines ----------------------------------------------------------------------------------------------------


WRITTEN = (
    "01071501000400010002070000000068e5cf8b010000ceffffffb6030000050000005a000000840300000100000000000000"
    "ffffffffffffffff06050508040307636f6e762d316d73672d316163632d31313535353030303161636d65616e6177616d69642e31"
)
NUMBERED = (
    "02071501000400010002070000000068e5cf8b01000003000000ceffffffb6030000050000005a0000008403000001000000"
    "00000000ffffffffffffffff06050508040307636f6e762d316d73672d316163632d31313535353030303161636d65616e61"
    "77616d69642e31"
)
COVERED = (
    "02c71501010400010002070000000068e5cf8b01000003000000ceffffffb6030000050000005a000000840300008e030000"
    "b004000080ee36000100000000000000ffffffffffffffff06050508040307636f6e762d316d73672d316163632d31313535"
    "353030303161636d65616e6177616d69642e31"
)
RETRIED = (
    "020795011e0400030002070000000068e5cf8b01000003000000ceffffffb6030000a00f00005a0000008403000001000000"
    "0200000005000000020000000100000000000000ffffffffffffffff0605050804030705636f6e762d316d73672d31616363"
    "2d31313535353030303161636d65616e6177616d69642e31646c762d30"
)
OF_THE_RELEASE_BEFORE = (
    '{"fields":{"tenant_id":"acme","conversation_id":"conv-1","known":false,"message_id":"","seq":0,"channel":"","account":"",'
    '"recipient":"","address":"","kind":"text","requested_at":0,"accepted_at":0,"version":0,"dispatched_at":1700000000005,'
    '"attempts":0,"events":[],"updated_at":1700000000950},"early":[]}\n'
)


def ended(**changes: object) -> Timeline:
    """A delivery that was read, with ids of a realistic length."""
    row = Timeline(
        "default", "c2f1d6d0-54a0-4c3c-9a0f-0b8a43a4f5c1", known=True, message_id="8d3c0a5e-5c1e-4b2f-8a77-0d9a3c1f2b6e", seq=7,
        channel="whatsapp", account="106540352242922", recipient="customer-7", address="15550000007", requested_at=NOW - 50,
        accepted_at=NOW, version=5, dispatched_at=NOW + 5, first_dispatched_at=NOW + 5, ready_at=NOW + 2, sent_at=NOW + 90,
        delivered_at=NOW + 900, read_at=NOW + 86_400_000,
        attempts=1, provider_message_id="wamid.HBgLMTU1NTAwMDAwMDAVAgARGBI3N0EyQUJDMjFEQzZCQjU3N0IA",
        events=tuple(digest_of(f"event {n}") for n in range(4)), updated_at=NOW + 86_400_000,
    )  # fmt: skip  # one field a line would be 20 lines
    return row._replace(**changes)  # type: ignore[arg-type]  # names and values are the row's own


def test_a_receipt_writes_a_few_hundred_bytes() -> None:
    assert len(TIMELINES.encode(ended())) < 300
    for channel in CHANNELS:
        assert TIMELINES.encode(ended(channel=channel))[0] == PACKED
    assert len(TIMELINES.encode(ended(events=tuple(range(KEPT_EVENTS))))) < 800, "with as many events as a row keeps"


def test_a_row_on_a_changelog_can_always_be_read() -> None:
    """The bytes are those of the first release that packed rows, and of the first that numbered them. A change that breaks this test needs
    another first byte, and the old bytes must still be read."""
    row = Timeline(
        "acme", "conv-1", known=True, message_id="msg-1", seq=7, channel="whatsapp", account="acc-1", recipient="ana",
        address="15550001", requested_at=NOW - 50, accepted_at=NOW, version=4, dispatched_at=NOW + 5, first_dispatched_at=NOW + 5,
        sent_at=NOW + 90, delivered_at=NOW + 900, attempts=1, provider_message_id="wamid.1", events=(1, 2**64 - 1), updated_at=NOW + 950,
    )  # fmt: skip  # one field a line would be 17 lines
    assert TIMELINES.decode(bytes.fromhex(WRITTEN)) == row, "number 0: it moves no cursor"
    assert TIMELINES.decode(bytes.fromhex(NUMBERED)) == row._replace(number=3)
    assert TIMELINES.encode(row._replace(number=3)).hex() == NUMBERED
    covered = row._replace(
        number=3, covered_delivered_at=NOW + 910, covered_read_at=NOW + 1200, stalled_at=NOW + 3_600_000
    )
    assert TIMELINES.decode(bytes.fromhex(COVERED)) == covered, (
        "and of the first with receipts for later messages and with labels"
    )
    assert TIMELINES.encode(covered).hex() == COVERED
    retried = row._replace(
        number=3,
        dispatched_at=NOW + 4000,
        attempts=3,
        throttles=2,
        ready_at=NOW + 2,
        not_before=NOW + 1,
        fallback_of="dlv-0",
    )
    assert TIMELINES.decode(bytes.fromhex(RETRIED)) == retried, "and of the first with the times of the first attempt"
    assert TIMELINES.encode(retried).hex() == RETRIED


def test_a_row_of_a_release_that_did_not_note_the_first_attempt_has_the_earliest_that_it_knows() -> None:
    row = TIMELINES.decode(OF_THE_RELEASE_BEFORE.encode())
    assert (row.dispatched_at, row.first_dispatched_at, row.ready_at) == (NOW + 5, NOW + 5, None)
    row = TIMELINES.decode(bytes.fromhex(WRITTEN))
    assert (row.dispatched_at, row.first_dispatched_at, row.ready_at) == (NOW + 5, NOW + 5, None)


def test_what_says_where_the_time_went_takes_four_bytes() -> None:
    """The time when it was the first of its lane; nothing else in a delivery that was neither scheduled nor tried again."""
    assert len(TIMELINES.encode(ended())) == len(TIMELINES.encode(ended(ready_at=None))) + 4


def test_the_web_views_show_field_names_and_events_in_hexadecimal() -> None:
    shown = TIMELINES.as_json(ended(events=(0, 2**64 - 1)))
    assert shown["events"] == ["0000000000000000", "ffffffffffffffff"]
    assert (shown["message_id"], shown["read_at"], shown["early"]) == (
        "8d3c0a5e-5c1e-4b2f-8a77-0d9a3c1f2b6e",
        NOW + 86_400_000,
        [],
    )
