"""The turns of one partition: what is committed together, what a poison record causes, and what happens on any error.

The stage is a toy whose records say what it does; the transactions go to a journal instead of Kafka. The engine on real Kafka is
tested in tests/integration/test_engine.py.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from pipelines.engine import connection_state, kafka_sizes
from pipelines.engine.dead_letters import dead_letter
from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.stage import Refusal, Source
from pipelines.engine.transactions import CommitFailed, HeldOffset, OutcomeUnknown
from pipelines.engine.turn_size import FEWEST_RECORDS
from schemas import codec
from schemas.records import DeadLetter, Header
from tables.sequences import SEQUENCES
from tables.sequences import Sequence as Row
from tests.support.builders import NOW, raw
from tests.support.turns_harness import CHANGELOG, Bench, Toy, benched, until


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async for made in benched():
        yield made


# --- a turn -------------------------------------------------------------------------------------------------------------


async def test_a_turn_is_one_transaction_of_outputs_rows_and_offsets(bench: Bench) -> None:
    bench.start()
    (turn,) = await bench.turned("x", "y")
    assert [each.value for each in turn.outputs] == [b"x", b"y"]
    assert turn.rows == [(CHANGELOG, 0, b"k", SEQUENCES.encode(Row(2)))]
    assert turn.offsets == {("a", 0): 2}
    assert bench.released == ["x"]
    assert bench.stage.committed == 1
    assert bench.tables["sequences"].changes() == []


async def test_what_waits_is_taken_together_up_to_the_bound(bench: Bench) -> None:
    bench.stage.turn_records = 3
    bench.journal.gate.clear()
    bench.start()
    bench.submit("a", "1")
    await until(lambda: bench.journal.begun == 1)
    for topic, values in (("a", ["2", "3"]), ("b", ["4"]), ("a", ["5", "6", "7", "8"]), ("b", ["9"])):
        bench.submit(topic, *values)
    bench.journal.gate.set()
    await until(lambda: len(bench.released) == 5)
    assert bench.stage.turns == [["1"], ["2", "3", "4"], ["5", "6", "7", "8"], ["9"]]
    assert bench.journal.committed[1].offsets == {("a", 0): 3, ("b", 0): 1}


async def test_turns_wait_for_more_records_but_a_lone_record_does_not_wait(bench: Bench) -> None:
    bench.stage.linger_ms = 200
    bench.start()
    began = time.monotonic()
    bench.submit("a", "1")
    await until(lambda: len(bench.released) == 1)
    assert time.monotonic() - began < 0.2
    bench.submit("a", "2")
    await asyncio.sleep(0)
    bench.submit("b", "3")
    await until(lambda: len(bench.released) == 3)
    assert bench.stage.turns == [["1"], ["2", "3"]]


async def test_a_partition_waits_for_its_turn_delay_and_gathers_meanwhile(bench: Bench) -> None:
    free_at = time.monotonic() + 0.2
    bench.stage.place = lambda: max(0.0, free_at - time.monotonic())
    bench.start()
    bench.submit("a", "1")
    await until(lambda: bench.partition.held)
    bench.submit("b", "2")
    await until(lambda: len(bench.released) == 2)
    assert bench.stage.turns == [["1", "2"]]
    assert time.monotonic() >= free_at
    assert not bench.partition.held


async def test_a_full_turn_and_a_stop_wait_for_no_turn_delay(bench: Bench) -> None:
    bench.stage.place = lambda: 60.0
    bench.stage.turn_records = 2
    bench.start()
    bench.submit("a", "1")
    await until(lambda: bench.partition.held)
    bench.submit("a", "2")
    await until(lambda: bench.stage.turns == [["1", "2"]])
    bench.submit("a", "3")
    await until(lambda: bench.partition.held)
    await asyncio.wait_for(bench.partition.stop(), 5)


async def test_a_due_time_makes_a_turn_and_one_without_effect_makes_no_transaction(bench: Bench) -> None:
    began = time.monotonic()
    bench.now = lambda: NOW + int((time.monotonic() - began) * 1000)
    bench.stage.due = NOW + 30
    bench.start()
    await until(lambda: bench.stage.turns == [[]])
    assert bench.now() >= NOW + 30
    assert bench.journal.committed == []
    assert await bench.turned("x"), "and the next one makes one"


async def test_turns_that_take_too_long_get_smaller_and_larger_again(bench: Bench) -> None:
    bench.stage.turn_ms = 100
    bench.stage.seconds_a_record = 0.01
    bench.start()
    await bench.turned(*["slow"] * 40)
    await bench.turned("and slow", *["slow"] * 39)
    assert [len(turn) for turn in bench.stage.turns] == [40, 20, FEWEST_RECORDS, 4]
    bench.stage.seconds_a_record = 0
    await bench.turned(*["fast"] * 100)
    assert [len(turn) for turn in bench.stage.turns[4:]] == [16, 32, 52]


async def test_a_turn_made_small_by_its_time_is_full_and_does_not_linger(bench: Bench) -> None:
    bench.stage.turn_ms = 100
    bench.stage.seconds_a_record = 0.01
    bench.stage.linger_ms = 60_000
    bench.journal.gate.clear()
    bench.start()
    bench.submit("a", *["slow"] * 40)
    await until(lambda: bench.journal.begun == 1)
    bench.submit("a", *["slow"] * 40)
    bench.journal.gate.set()
    await until(lambda: [len(turn) for turn in bench.stage.turns] == [40, 20, FEWEST_RECORDS])


async def test_the_end_of_a_wait_for_a_sink_is_progress(bench: Bench) -> None:
    bench.stage.sink.clear()
    bench.start()
    bench.submit("a", "1")
    await until(lambda: bench.partition.waiting_for_sink)
    committed = bench.partition.progressed_at
    await asyncio.sleep(0.05)
    assert bench.partition.progressed_at == committed
    bench.stage.sink.set()
    await until(lambda: not bench.partition.waiting_for_sink)
    assert bench.partition.progressed_at >= committed + 0.05


async def test_an_offset_the_stage_names_counts_instead_but_never_moves_the_group_back(bench: Bench) -> None:
    bench.start(committed={("a", 0): 4})
    bench.ends["a"] = 4
    bench.stage.offsets = {("a", 0): 5}
    await bench.turned("x", "y", "z")
    assert bench.journal.position("a") == 5
    bench.stage.offsets = {("a", 0): 3}
    await bench.turned("again")
    assert bench.journal.position("a") == 5


async def test_deleted_offsets_are_reported_and_stepped_over_in_one_transaction_without_new_records(
    bench: Bench,
) -> None:
    bench.start(committed={("a", 0): 4}, deleted={("a", 0): (4, 10)})
    await until(lambda: bool(bench.journal.committed))
    (turn,) = bench.journal.committed
    assert turn.offsets == {("a", 0): 10}
    (letter,) = bench.journal.letters()
    assert (letter.cause, letter.source_offset, letter.value) == ("deleted_before_read", 4, None)
    bench.ends["a"] = 10
    await bench.turned("x")
    assert (len(bench.journal.letters()), bench.journal.position("a")) == (1, 11)


# --- sources ------------------------------------------------------------------------------------------------------------


async def test_a_held_source_waits_in_its_order_and_the_others_go_on(bench: Bench) -> None:
    bench.stage.held = {"b"}
    bench.start()
    for topic, value in (("b", "b1"), ("a", "a1"), ("b", "b2"), ("a", "a2")):
        bench.submit(topic, value)
    await until(lambda: bench.released == ["a1", "a2"])
    bench.stage.held = set()
    bench.submit("b", "b3")
    await until(lambda: len(bench.released) == 5)
    assert [value for turn in bench.stage.turns for value in turn] == ["a1", "a2", "b1", "b2", "b3"]


async def test_a_held_source_goes_on_when_woken(bench: Bench) -> None:
    bench.stage.held = {"a"}
    bench.start()
    bench.submit("a", "a1")
    await asyncio.sleep(0)
    bench.stage.held = set()
    bench.partition.wake()
    await until(lambda: bench.released == ["a1"])


async def test_a_first_source_is_drained_before_anything_else_is_taken(bench: Bench) -> None:
    drained = threading.Event()
    bench.start(Toy(Source("members", first=True), Source("a")), caught_up=drained.is_set)
    bench.submit("a", "a1")
    bench.submit("members", "m1")
    await until(lambda: bench.released == ["m1"])
    bench.submit("members", "m2")
    await until(lambda: bench.released == ["m1", "m2"])
    drained.set()
    bench.partition.wake()
    await until(lambda: bench.released == ["m1", "m2", "a1"])
    drained.clear()
    bench.submit("a", "a2")
    await until(lambda: "a2" in bench.released)  # after that it never waits again


# --- refusals -----------------------------------------------------------------------------------------------------------


async def test_a_refused_record_is_a_dead_letter_of_the_same_transaction(bench: Bench) -> None:
    bench.start()
    (turn,) = await bench.turned("1", "refuse", "2")
    assert [each.topic for each in turn.outputs] == ["out", "out", "dead-letters"]
    (letter,) = bench.journal.letters()
    assert (letter.cause, letter.detail, letter.stage, letter.refused_at) == ("not_avro", "as asked", "toy", NOW)


async def test_a_record_read_again_is_not_refused_again(bench: Bench) -> None:
    """A sink seeks to its own position, before the group's offset: its dead letters were committed before."""
    bench.start(committed={("a", 0): 2})
    await bench.turned("refuse", "refuse", "refuse")
    assert [each.source_offset for each in bench.journal.letters()] == [2]


async def test_what_a_row_kept_from_before_a_restart_is_refused_all_the_same(bench: Bench) -> None:
    """A delivery given up or a receipt without a binding: its record was committed by an earlier owner of the partition."""
    long_ago = raw("a", b"kept in a row", offset=3)
    bench.stage.kept = [Refusal(long_ago, "attempts_exhausted", "given up")]
    bench.ends["a"] = 10
    bench.start(committed={("a", 0): 10})
    await bench.turned("x")
    assert [each.source_offset for each in bench.journal.letters()] == [3]


def test_a_dead_letter_carries_the_record_whole() -> None:
    headers = (("traceparent", b"00-1"), ("text", "olá"), ("none", None), ("traceparent", b"00-2"))
    record = raw("messages", b"\x00junk", key=b"c1", partition=3, offset=9, headers=headers)
    output = dead_letter("route", Refusal(record, "not_avro", "why", "t"), NOW)
    assert (output.topic, output.key, output.partition) == ("dead-letters", b"c1", None)
    letter = codec.decode(output.value, DeadLetter)
    assert (letter.key, letter.value) == (b"c1", b"\x00junk")
    assert letter.headers == (
        Header(key="traceparent", value=b"00-1"),
        Header(key="text", value="olá".encode()),
        Header(key="none", value=None),
        Header(key="traceparent", value=b"00-2"),
    )
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("messages", 3, 9)
    assert (letter.source_timestamp, letter.refused_at, letter.tenant_id) == (record.timestamp, NOW, "t")
    assert (letter.cause, letter.detail, letter.stage) == ("not_avro", "why", "route")
    assert letter.dead_letter_id == "route:messages:3:9", "the same place gives the same id"


@pytest.mark.parametrize(("key", "value"), [(None, None), (b"", b"")], ids=["null", "empty"])
def test_null_and_empty_stay_apart_in_a_dead_letter(key: bytes | None, value: bytes | None) -> None:
    output = dead_letter("route", Refusal(raw("messages", value, key=key), "no_key", "why"), NOW)
    letter = codec.decode(output.value, DeadLetter)
    assert (letter.key, letter.value) == (key, value)
    assert output.key == b""


# --- calls --------------------------------------------------------------------------------------------------------------


async def test_a_call_starts_after_its_turn_was_committed_and_its_result_makes_a_turn(bench: Bench) -> None:
    bench.journal.gate.clear()
    bench.start()
    bench.submit("a", "call")
    await until(lambda: bench.journal.begun == 1)
    await asyncio.sleep(0.01)
    assert bench.stage.performed == []
    bench.journal.gate.set()
    await until(lambda: bench.stage.performed == ["k"])
    bench.stage.answer.set()
    await until(lambda: bench.journal.outputs() == ["call", "answered"])
    assert bench.journal.committed[1].offsets == {("a", 0): 1}, "the last offsets again: their metadata names the turn"


async def test_a_call_has_begun_when_the_next_turn_is_decided(bench: Bench) -> None:
    """Otherwise a state that is made anew in that turn (poison) takes the call for a lost one, and send makes it twice."""
    bench.stage.turn_records = 1
    bench.start()
    bench.submit("a", "call")
    bench.submit("a", "next")
    await until(lambda: len(bench.released) == 2)
    assert bench.stage.performed_before == [0, 1]


async def test_a_call_that_raises_ends_the_worker(bench: Bench) -> None:
    bench.stage.answer.set()
    bench.start()
    bench.submit("a", "call, and fail")
    await until(lambda: bool(bench.failures))
    assert "call k raised RuntimeError (support/turns_harness.py:" in bench.failures[0]
    assert "a stage must not" not in bench.failures[0]  # the sentence may quote a text


# --- failure ------------------------------------------------------------------------------------------------------------


async def test_a_commit_that_fails_ends_the_worker_and_lets_nothing_out(bench: Bench) -> None:
    bench.journal.failure = CommitFailed("fenced")
    bench.start()
    bench.submit("a", "call")
    bench.submit("b", "later")
    await until(lambda: bool(bench.failures))
    assert "fenced" in bench.failures[0]
    assert (bench.released, bench.stage.performed, bench.stage.committed) == ([], [], 0)


# --- stopping -----------------------------------------------------------------------------------------------------------


async def test_stopping_commits_the_results_of_calls_and_starts_no_more(bench: Bench) -> None:
    bench.start()
    await bench.turned("calls")
    await until(lambda: bench.stage.performed == ["k"])
    stopping = asyncio.create_task(bench.partition.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done(), "it waits for the call"
    bench.stage.answer.set()
    await stopping
    assert bench.journal.outputs() == ["calls", "answered"]
    assert bench.stage.performed == ["k"]


async def test_stopping_finishes_the_open_turn_and_gives_back_what_waits(bench: Bench) -> None:
    bench.journal.gate.clear()
    bench.start()
    bench.submit("a", "open")
    await until(lambda: bench.journal.begun == 1)
    bench.submit("a", "waits")
    stopping = asyncio.create_task(bench.partition.stop())
    await until(lambda: bench.released == ["waits"])
    bench.submit("a", "too late")
    assert bench.released == ["waits", "too late"]
    bench.journal.gate.set()
    await stopping
    assert bench.journal.outputs() == ["open"]
    assert bench.released == ["waits", "too late", "open"]


async def test_a_call_that_does_not_end_in_time_continues_if_the_partition_stays(bench: Bench) -> None:
    bench.start(drain_seconds=0.01)
    await bench.turned("call")
    await until(lambda: bench.stage.performed == ["k"])
    await bench.partition.stop()
    assert bench.journal.outputs() == ["call"]
    bench.partition.start(committed={("a", 0): 1}, caught_up=lambda: True)
    assert bench.partition.state.opened == bench.stage.opened, "with a state made anew"
    bench.stage.answer.set()
    await until(lambda: bench.journal.outputs() == ["call", "answered"])
    assert bench.stage.performed == ["k"]


async def test_the_calls_of_a_partition_that_went_away_are_cancelled(bench: Bench) -> None:
    bench.start(drain_seconds=0.01)
    await bench.turned("call")
    await until(lambda: bench.stage.performed == ["k"])
    await bench.partition.stop()
    bench.partition.abandon()
    bench.stage.answer.set()
    await asyncio.sleep(0.01)
    assert bench.journal.outputs() == ["call"]
    assert bench.failures == []


async def test_a_stopped_partition_starts_again_where_it_was(bench: Bench) -> None:
    bench.start()
    await bench.turned("1")
    await bench.partition.stop()
    bench.partition.start(committed={("a", 0): 1}, caught_up=lambda: True)
    await bench.turned("2")
    assert bench.journal.outputs() == ["1", "2"]
    assert bench.tables["sequences"].get(b"k") == Row(2)


# --- what Kafka would not take ---------------------------------------------------------------------------------------------


async def test_a_record_whose_output_is_too_large_is_refused_alone_before_anything_is_sent(bench: Bench) -> None:
    bench.limits["out"] = 20
    bench.start()
    bench.submit("a", "1", "2" * 30, "3")
    await until(lambda: len(bench.released) == 1)
    assert bench.journal.outputs() == ["1", "3"]
    (letter,) = bench.journal.letters()
    assert (letter.cause, letter.value) == ("too_large_for_kafka", b"2" * 30)
    assert "an output of 31 bytes for out, which takes 20" in letter.detail
    assert bench.tables["sequences"].get(b"k") == Row(2), "nothing of it stays"
    assert bench.failures == []


async def test_too_large_is_data_however_much_of_it_comes(bench: Bench) -> None:
    bench.limits["out"] = 20
    bench.start(poison_limit=5)
    bench.submit("a", *["x" * 30] * 40, "fine")
    await until(lambda: len(bench.released) == 1)
    assert (bench.journal.outputs(), len(bench.journal.letters()), bench.failures) == (["fine"], 40, [])


async def test_a_row_that_is_too_large_is_found_too(bench: Bench) -> None:
    bench.limits[CHANGELOG] = 20
    bench.start()
    bench.submit("a", "1", key="k" * 15)
    bench.submit("a", "2")
    await until(lambda: len(bench.released) == 2)
    (letter,) = bench.journal.letters()
    assert (letter.value, bench.journal.outputs()) == (b"1", ["2"])


async def test_a_turn_whose_outputs_together_are_too_large_is_made_smaller(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_sizes, "TURN_BYTES", 1000)
    bench.start()
    await bench.turned(*[f"{n:099}" for n in range(40)])
    assert bench.journal.outputs() == [f"{n:099}" for n in range(40)]
    assert bench.journal.letters() == []
    assert max(len(turn.outputs) for turn in bench.journal.committed) <= 10
    assert bench.released == [f"{0:099}"], "once"


# --- a commit whose outcome is not known -------------------------------------------------------------------------------------


@pytest.mark.parametrize("happened", [True, False])
async def test_a_commit_without_an_outcome_is_asked_about_and_done_once(bench: Bench, happened: bool) -> None:
    bench.journal.failure = OutcomeUnknown("timed out")
    bench.journal.happened = happened
    bench.journal.heals = True
    bench.start()
    bench.submit("a", "1")
    await until(lambda: bench.released == ["1"])
    assert (bench.failures, bench.journal.outputs()) == ([], [] if happened else ["1"])
    assert bench.journal.reopened[0] is not None


async def test_a_commit_without_an_answer_is_abandoned_when_the_connection_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_state, "GRACE_SECONDS", 0.01)
    bench.journal.gate.clear()
    bench.journal.happened = True
    bench.start()
    bench.submit("a", "1")
    await until(lambda: bench.journal.begun == 1)
    bench.connection.lost()
    bench.connection.found()
    await until(lambda: bench.released == ["1"])
    assert bench.failures == []


async def test_a_producer_whose_connection_was_lost_is_opened_again_before_its_next_turn(bench: Bench) -> None:
    bench.start()
    await bench.turned("1")
    bench.connection.lost()
    bench.connection.found()
    assert bench.journal.reopened == []
    await bench.turned("2")
    await bench.turned("3")
    assert bench.journal.reopened == [None]
    assert bench.journal.outputs() == ["1", "2", "3"]


async def test_what_kafka_refuses_again_and_again_ends_the_worker(bench: Bench) -> None:
    bench.journal.failure = OutcomeUnknown("unknown topic")
    bench.start()
    bench.submit("a", "1")
    await until(lambda: bool(bench.failures))
    assert "unknown topic; 3 times" in bench.failures[0]
    assert bench.released == []


# --- nothing to do -------------------------------------------------------------------------------------------------------------


async def test_the_group_passes_over_markers_once_when_nothing_is_left_to_do(bench: Bench) -> None:
    bench.start(committed={("a", 0): 0, ("b", 0): 0})
    await bench.turned("1")
    bench.partition.note_idle({("a", 0): 3, ("b", 0): 0})
    await until(lambda: bench.journal.position("a") == 3)
    await until(lambda: bench.partition._committed["a", 0] == 3)  # the journal has it a moment earlier
    committed = len(bench.journal.committed)
    assert bench.journal.committed[-1].offsets == {("a", 0): 3}
    bench.partition.note_idle({("a", 0): 3, ("b", 0): 0})
    await asyncio.sleep(0.02)
    assert len(bench.journal.committed) == committed


async def test_a_held_source_is_no_standstill(bench: Bench) -> None:
    bench.stage.held = {"a"}
    bench.start()
    assert not bench.partition.held
    bench.submit("a", "1")
    await until(lambda: bench.partition.held)
    bench.stage.held = set()
    bench.journal.gate.clear()
    bench.partition.wake()
    await until(lambda: bench.journal.begun == 1)
    assert not bench.partition.held, "now it waits for Kafka"


async def test_a_start_without_a_turn_that_is_stopped_cleanly_is_not_counted(bench: Bench) -> None:
    """As when a rebalance follows another at once: the partition was taken over and never took a turn."""
    bench.start()
    await bench.partition.stop()
    for _ in range(4):
        last = bench.journal.committed[-1:]
        mark = OffsetMetadata(turn="t", starts=last[0].starts if last else 0)
        held = {("a", 0): HeldOffset(0, mark.text())}
        await bench.partition.take_over(held, {("a", 0): 0})
        assert bench.journal.committed[-1].starts == 1
        await bench.partition.stop()
        assert bench.journal.committed[-1].starts == 0
