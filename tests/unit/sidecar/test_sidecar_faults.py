"""The loop when things go wrong: deaths, cancels, bad messages, outages, shutdowns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.sidecar.conftest import Bench

from asya.envelope import child_id, queue_name
from asya.events import HopStarted
from asya.resiliency import Resiliency
from asya.testing.loopback import LoopbackCall

if TYPE_CHECKING:
    from tests.unit.sidecar.conftest import Bench


async def echo(call: LoopbackCall) -> None:
    call.frame(call.payload)
    call.done()


async def forever(call: LoopbackCall) -> None:
    await asyncio.sleep(1e6)


class TestDeaths:
    def test_a_death_gives_the_message_to_the_next_replica(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(forever)
            one = await bench.send(bench.envelope())
            await asyncio.sleep(1)
            bench.runtimes[1].die()
            bench.replica(echo)
            assert (await bench.ledger.end_of(one)).phase == "succeeded"
            assert bench.sidecar.snapshot().lost == 1

        play(scene)

    def test_the_fifth_death_sends_it_to_the_dead_letters(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            one = await bench.send(bench.envelope())
            for pid in range(1, 6):
                bench.replica(forever)
                await asyncio.sleep(1)
                bench.runtimes[pid].die()
            end = await bench.ledger.end_of(one)
            assert (end.phase, end.reason) == ("failed", "PoisonMessage")
            (letter,) = bench.ledger.letters
            assert letter.reason == "PoisonMessage"

        play(scene)

    def test_a_death_that_many_shared_does_not_make_them_queue_up(
        self, play: Callable[..., Any]
    ) -> None:
        async def slow(call: LoopbackCall) -> None:
            await asyncio.sleep(1)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(slow, concurrency=50)
            ids = [await bench.send(bench.envelope()) for _ in range(50)]
            await asyncio.sleep(0.5)
            bench.runtimes[1].die()
            bench.replica(slow, concurrency=50)
            for one in ids:
                await bench.ledger.end_of(one)
            assert asyncio.get_running_loop().time() < 2

        play(scene, concurrency=50)

    def test_of_many_suspects_only_the_culprit_goes_to_the_dead_letters(
        self, play: Callable[..., Any]
    ) -> None:
        async def handle(call: LoopbackCall) -> None:
            await asyncio.sleep(1)
            if call.payload == "poison":
                call._runtime.die()
                bench_now[0].replica(handle, concurrency=10)
            else:
                await asyncio.sleep(1)
                call.done()

        bench_now = []

        async def scene(bench: Bench) -> None:
            bench_now.append(bench)
            bench.replica(handle, concurrency=10)
            bad = await bench.send(bench.envelope(payload="poison"))
            good = [await bench.send(bench.envelope(payload=i)) for i in range(9)]
            for one in good:
                assert (await bench.ledger.end_of(one)).phase == "succeeded"
            assert (await bench.ledger.end_of(bad)).reason == "PoisonMessage"

        play(scene, concurrency=10)

    def test_a_message_that_a_replica_died_of_runs_alone(self, play: Callable[..., Any]) -> None:
        together = []
        running = set()

        async def note(call: LoopbackCall) -> None:
            running.add(call.payload)
            together.append(frozenset(running))
            await asyncio.sleep(1)
            running.discard(call.payload)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(forever, concurrency=2)
            bad = await bench.send(bench.envelope(payload="bad"))
            await asyncio.sleep(0.1)
            bench.runtimes[1].die()
            bench.replica(note, concurrency=2)
            ids = [await bench.send(bench.envelope(payload=i)) for i in range(6)]
            for one in [bad, *ids]:
                await bench.ledger.end_of(one)
            assert frozenset({"bad"}) in together
            assert not [group for group in together if "bad" in group and len(group) > 1]

        play(scene, concurrency=2)

    def test_calls_sent_in_advance_are_not_blamed(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(echo)
            for _ in range(20):
                await bench.ledger.end_of(await bench.send(bench.envelope()))
            bench.runtimes[1].die()
            bench.replica(forever)
            ids = [await bench.send(bench.envelope()) for _ in range(5)]
            await asyncio.sleep(1)
            assert bench.runtimes[2].calls
            assert len(bench.runtimes[2].calls) == 5
            bench.runtimes[2].die()
            bench.replica(echo)
            for one in ids:
                await bench.ledger.end_of(one)
            assert bench.sidecar.snapshot().lost == 1

        play(scene)

    def test_the_sidecar_s_own_deaths_count_too(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            one = await bench.send(bench.envelope())
            for _ in range(5):
                await asyncio.sleep(1)
                bench.broker.client_died(bench.transport)
                await bench.start()
            end = await bench.ledger.end_of(one)
            assert end.reason == "PoisonMessage"

        play(scene)


class TestCancel:
    def test_before_the_handler(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            one = await bench.send(bench.envelope())
            await asyncio.sleep(1)
            bench.cancels.add([one])
            assert (await bench.ledger.end_of(one)).phase == "canceled"
            assert bench.sidecar.snapshot().waiting == 0

        play(scene)

    def test_while_its_result_cannot_be_sent_and_the_others_are_stopped_too(
        self, play: Callable[..., Any]
    ) -> None:
        async def handle(call: LoopbackCall) -> None:
            if call.payload == "quick":
                call.frame("done")
                call.done()
            else:
                await asyncio.sleep(1e6)

        async def scene(bench: Bench) -> None:
            bench.replica(handle, concurrency=2, cooperative=True)
            quick = await bench.send(bench.envelope("a", "b", payload="quick"))
            slow = await bench.send(bench.envelope(payload="slow"))
            bench.broker.available = False
            await asyncio.sleep(1)
            bench.cancels.add([quick, slow])
            assert (await bench.ledger.end_of(slow)).phase == "canceled"
            bench.broker.available = True
            await asyncio.sleep(5)
            assert len(await bench.received("b")) == 1

        play(scene, concurrency=2)

    def test_in_the_queue(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            bench.cancels.add(["later"])
            await bench.send(bench.envelope(id="later"))
            assert (await bench.ledger.end_of("later")).phase == "canceled"

        play(scene)

    @pytest.mark.parametrize("cooperative", [True, False])
    def test_during_a_handler(self, play: Callable[..., Any], cooperative: bool) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(forever, cooperative=cooperative)
            one = await bench.send(bench.envelope())
            await asyncio.sleep(1)
            bench.cancels.add([one])
            assert (await bench.ledger.end_of(one)).phase == "canceled"
            assert bench.killed == ([] if cooperative else [1])

        play(scene)

    def test_while_an_overrun_handler_is_asked_to_stop_it_is_killed_all_the_same(
        self, play: Callable[..., None]
    ) -> None:
        async def stubborn(call: LoopbackCall) -> None:
            while True:
                try:
                    await asyncio.sleep(1e6)
                except asyncio.CancelledError:
                    if not call._runtime.calls:
                        raise

        async def scene(bench: Bench) -> None:
            bench.replica(stubborn, cooperative=True)
            one = await bench.send(bench.envelope())
            await asyncio.sleep(60.5)
            bench.cancels.add([one])
            end = await asyncio.wait_for(bench.ledger.end_of(one), 60)
            assert (end.phase, bench.killed) == ("canceled", [1])

        play(scene, resiliency=Resiliency(actor_timeout_s=60))

    def test_a_root_takes_its_children_with_it(self, play: Callable[..., Any]) -> None:
        async def spread(call: LoopbackCall) -> None:
            if call.envelope["id"] == "root" and "x-asya-root" not in call.envelope["headers"]:
                for i in range(3):
                    call.frame(i)
                call.done()
            else:
                await asyncio.sleep(1e6)

        async def scene(bench: Bench) -> None:
            bench.replica(spread, cooperative=True)
            await bench.send(bench.envelope("a", "a", id="root"))
            await asyncio.sleep(5)
            bench.cancels.add(["root"])
            ids = ["root", child_id("root", 0, 1), child_id("root", 0, 2)]
            for one in ids:
                assert (await bench.ledger.end_of(one)).phase == "canceled"

        play(scene)


class TestBadMessages:
    @pytest.mark.parametrize(
        "body", [b"", b"{", b"\xff\xfe", b"[]", b'{"id": 1}', b'{"id":"x","route":{}}', b"null"]
    )
    def test_what_is_no_envelope_is_kept_and_blocks_nothing(
        self, play: Callable[..., Any], body: bytes
    ) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(echo)
            await bench.transport.publish(queue_name("default", "a"), body)
            await bench.ledger.end_of(await bench.send(bench.envelope()))
            await asyncio.sleep(0.1)
            (letter,) = bench.ledger.letters
            assert letter.reason == "ParseError"
            assert await bench.depth() == (0, 0, 0)

        play(scene)

    def test_a_foreign_envelope_is_kept(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            await bench.send(bench.envelope("other"))
            await asyncio.sleep(0.1)
            (letter,) = bench.ledger.letters
            assert letter.reason == "RouteMismatch"

        play(scene)

    def test_an_unknown_actor_in_the_route_goes_to_the_dead_letters(
        self, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(echo)
            await bench.transport.ensure(queue_name("default", "reranker"))
            end = await bench.ledger.end_of(await bench.send(bench.envelope("a", "rerankr")))
            assert end.reason == "UnknownActor"
            assert end.error is not None
            assert "did you mean 'reranker'" in end.error.message

        play(scene)

    def test_a_replica_of_another_run_is_sent_away(
        self, play: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scene(bench: Bench) -> None:
            stranger = bench.replica(echo, token="theirs")
            one = await bench.send(bench.envelope("a", "b"))
            await asyncio.sleep(1)
            assert bench.sidecar.snapshot().replicas == []
            assert not stranger.calls
            assert "no replica of this run" in caplog.text
            bench.replica(echo, token="ours")
            await asyncio.sleep(1)
            assert [e.id for e in await bench.received("b")] == [one]

        play(scene, token="ours")

    def test_a_neighbours_queue_that_is_missing_is_waited_for(
        self, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(echo)
            await bench.transport.delete(queue_name("default", "b"))
            one = await bench.send(bench.envelope("a", "b"))
            await asyncio.sleep(5)
            assert bench.ledger.ends == {}
            await bench.transport.ensure(queue_name("default", "b"))
            await asyncio.sleep(5)
            assert [e.id for e in await bench.received("b")] == [one]

        play(scene, neighbours=frozenset({"a", "b"}))

    def test_one_unknown_branch_leaves_the_others_alone(self, play: Callable[..., Any]) -> None:
        async def two(call: LoopbackCall) -> None:
            call.frame(1, next=["b"])
            call.frame(2, next=["nowhere"])
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(two)
            one = await bench.send(bench.envelope("a"))
            await asyncio.sleep(0.1)
            assert [e.id for e in await bench.received("b")] == [one]
            assert (await bench.ledger.end_of(child_id(one, 0, 1))).reason == "UnknownActor"

        play(scene)

    def test_a_payload_over_the_limit_fails_the_envelope_with_the_sizes(
        self, play: Callable[..., Any]
    ) -> None:
        async def big(call: LoopbackCall) -> None:
            call.frame("x" * 2000)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(big)
            end = await bench.ledger.end_of(await bench.send(bench.envelope("a", "b")))
            assert end.error is not None
            assert end.error.type == "asya.errors.PayloadTooLarge"
            assert end.error is not None
            assert "2002 bytes; the limit is 1000 bytes" in end.error.message

        play(scene, payload_max_bytes=1000)

    def test_a_circle_ends(self, play: Callable[..., Any]) -> None:
        async def again(call: LoopbackCall) -> None:
            call.frame(1, next=["a"])
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(again)
            end = await bench.ledger.end_of(await bench.send(bench.envelope()))
            assert (end.reason, end.n) == ("HopLimit", 1000)

        play(scene)

    def test_bytes_that_are_no_frames_end_the_replica_not_the_sidecar(
        self, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            runtime = bench.replica(forever)
            one = await bench.send(bench.envelope())
            await asyncio.sleep(0.1)
            assert runtime._replica is not None
            runtime._replica.data_received(b"\xff" * 64)
            await asyncio.sleep(0.1)
            assert runtime.is_closing()
            bench.replica(echo)
            assert (await bench.ledger.end_of(one)).phase == "succeeded"

        play(scene)

    @pytest.mark.parametrize(
        "bad", [["Bad Name*.>"], ["x-sink"], ["b", "x-sump"], ["b"] * 1001, [""]]
    )
    def test_a_foreign_route_that_names_no_actor_is_kept_and_blocks_nothing(
        self, play: Callable[..., Any], bad: list[str]
    ) -> None:
        async def scene(bench: Bench) -> None:
            foreign = bench.envelope("a", *bad, id="foreign")
            await bench.send(foreign)
            await asyncio.sleep(1)
            assert (await bench.ledger.end_of("foreign")).phase == "failed"
            (letter,) = bench.ledger.letters
            assert letter.reason == "ParseError"
            assert letter.error is not None
            assert "route.next" in letter.error.message
            bench.replica(echo)
            await bench.ledger.end_of(await bench.send(bench.envelope()))

        play(scene)

    def test_dead_letters_have_a_queue_where_no_sump_runs_here(
        self, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            bench.sidecar._ends = {}
            bench.replica(echo)
            one = await bench.send(bench.envelope("a", "nowhere"))
            await asyncio.sleep(1)
            (kept,) = await bench.received("x-sump")
            assert (kept.id, kept.status.reason) == (one, "UnknownActor")
            assert kept.route.next == ["nowhere"]

        play(scene)


class TestOutages:
    def test_sending_on_is_tried_until_the_broker_is_back_and_the_handler_runs_once(
        self, play: Callable[..., Any]
    ) -> None:
        calls = []

        async def cut(call: LoopbackCall) -> None:
            calls.append(1)
            bench_now[0].broker.available = False
            call.frame("result")
            call.done()

        bench_now = []

        async def scene(bench: Bench) -> None:
            bench_now.append(bench)
            bench.replica(cut)
            await bench.send(bench.envelope("a", "b"))
            await asyncio.sleep(60)
            bench.broker.available = True
            await asyncio.sleep(5)
            assert len(await bench.received("b")) == 1
            assert len(calls) == 1

        play(scene)

    def test_a_store_that_is_full_leaves_the_end_with_the_broker(
        self, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(echo)
            await bench.transport.ensure(queue_name("default", "x-sink"))
            bench.ledger.broken = True
            one = await bench.send(bench.envelope())
            await asyncio.sleep(1)
            (kept,) = await bench.received("x-sink")
            assert (kept.id, kept.status.phase) == (one, "succeeded")
            assert await bench.depth() == (0, 0, 0)

        play(scene)


class TestDrain:
    def test_what_runs_is_finished_and_the_rest_given_back_without_a_death(
        self, play: Callable[..., Any]
    ) -> None:
        async def slow(call: LoopbackCall) -> None:
            await asyncio.sleep(2)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(slow)
            first = await bench.send(bench.envelope())
            await asyncio.sleep(0.1)
            others = [await bench.send(bench.envelope()) for _ in range(5)]
            await bench.sidecar.drain(10)
            assert set(bench.ledger.ends) == {first}
            assert (await bench.depth())[:2] == (5, 0)
            await bench.start()
            bench.replica(echo)
            for one in others:
                await bench.ledger.end_of(one)
            started = [e for e in bench.ledger.events if isinstance(e, HopStarted)]
            assert len(started) == 6

        play(scene)

    def test_what_outlasts_the_grace_time_is_killed_and_given_back(
        self, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(forever)
            one = await bench.send(bench.envelope())
            await asyncio.sleep(0.1)
            await bench.sidecar.drain(5)
            assert bench.killed == [1]
            assert (await bench.depth())[:2] == (1, 0)
            (kept,) = await bench.received("a")
            assert kept.id == one
            assert "x-asya-deaths" not in kept.headers

        play(scene)

    def test_five_shutdowns_are_no_poison(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            one = await bench.send(bench.envelope())
            for _ in range(7):
                await asyncio.sleep(1)
                await bench.sidecar.drain(1)
                await bench.start()
            bench.replica(echo)
            assert (await bench.ledger.end_of(one)).phase == "succeeded"

        play(scene)

    def test_a_replica_that_got_sigterm_finishes_and_is_sent_away(
        self, play: Callable[..., Any]
    ) -> None:
        async def slow(call: LoopbackCall) -> None:
            await asyncio.sleep(2)
            call.done()

        async def scene(bench: Bench) -> None:
            runtime = bench.replica(slow)
            first = await bench.send(bench.envelope())
            await asyncio.sleep(0.1)
            runtime.terminating()
            second = await bench.send(bench.envelope())
            await bench.ledger.end_of(first)
            await asyncio.sleep(0.1)
            assert runtime.said_bye
            assert second not in bench.ledger.ends
            bench.replica(echo)
            await bench.ledger.end_of(second)

        play(scene)

    def test_only_an_idle_replica_can_be_retired(self, play: Callable[..., Any]) -> None:
        async def slow(call: LoopbackCall) -> None:
            await asyncio.sleep(2)
            call.done()

        async def scene(bench: Bench) -> None:
            runtime = bench.replica(slow)
            one = await bench.send(bench.envelope())
            await asyncio.sleep(0.1)
            assert not bench.sidecar.retire(1)
            await bench.ledger.end_of(one)
            await asyncio.sleep(0.1)
            assert bench.sidecar.retire(1)
            await asyncio.sleep(0.1)
            assert runtime.said_bye
            assert bench.sidecar.snapshot().replicas == []

        play(scene)
