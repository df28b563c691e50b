"""The loop: what it performs, in what order, and what it survives. All on virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from asya.envelope import HOP_HEADER, child_id, encode, queue_name, raw_json
from asya.events import Flown, Forked, HopEnded, HopStarted
from asya.resiliency import Policy, Resiliency
from asya.runtime import protocol
from asya.testing.loopback import LoopbackCall
from asya.transports.base import Receipt

if TYPE_CHECKING:
    from tests.unit.sidecar.conftest import Bench


async def echo(call: LoopbackCall) -> None:
    call.frame(call.payload)
    call.done()


async def forever(call: LoopbackCall) -> None:
    await asyncio.sleep(1e6)


def retrying(**policy: Any) -> Resiliency:
    return Resiliency(policies={"default": Policy(**policy)}, actor_timeout_s=60)


class TestOneHop:
    def test_an_envelope_ends_at_the_sink_with_the_result(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(echo)
            end = await bench.ledger.end_of(await bench.send(bench.envelope()))
            assert end.result is not None
            assert (end.phase, bytes(end.result), end.route.prev) == (
                "succeeded",
                b'{"x": 1}',
                ["a"],
            )
            await asyncio.sleep(0)
            assert await bench.depth() == (0, 0, 0)

        play(scene)

    def test_the_ack_waits_for_the_confirm_of_the_next_queue(
        self, monkeypatch: pytest.MonkeyPatch, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(echo)
            confirm = asyncio.Event()
            publish = bench.transport.publish
            await bench.send(bench.envelope("a", "b"))

            async def slow_confirm(*args: Any, **kwargs: Any) -> Receipt:
                receipt = await publish(*args, **kwargs)
                await confirm.wait()
                return receipt

            monkeypatch.setattr(bench.transport, "publish", slow_confirm)
            await asyncio.sleep(3600)
            assert await bench.depth() == (0, 1, 0)
            confirm.set()
            await asyncio.sleep(0.1)
            assert await bench.depth() == (0, 0, 0)
            (out,) = await bench.received("b")
            assert (out.route.curr, out.header(HOP_HEADER)) == ("b", 1)

        play(scene)

    def test_events_tell_start_and_end_of_a_hop(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(echo)
            await bench.ledger.end_of(await bench.send(bench.envelope()))
            await asyncio.sleep(0.1)
            started, ended = bench.ledger.events
            assert isinstance(started, HopStarted)
            assert isinstance(ended, HopEnded)
            assert (started.n, started.replica, ended.state) == (0, 1, "succeeded")
            assert started.body is not None
            assert started.body.size == len(b'{"x":1}')

        play(scene)

    def test_fly_reaches_the_listener_at_once_and_in_order(self, play: Callable[..., Any]) -> None:
        async def talk(call: LoopbackCall) -> None:
            call.fly({"t": 1})
            call.fly({"t": 2})
            await asyncio.sleep(5)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(talk)
            await bench.send(bench.envelope())
            await asyncio.sleep(1)
            flown = [event for event in bench.ledger.events if isinstance(event, Flown)]
            assert [(event.seq, bytes(event.data)) for event in flown] == [
                (1, b'{"t": 1}'),
                (2, b'{"t": 2}'),
            ]

        play(scene)


class TestWaiting:
    def test_the_first_message_waits_for_a_replica_and_wakes_whoever_makes_one(
        self, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            ids = [await bench.send(bench.envelope()) for _ in range(3)]
            await asyncio.sleep(1)
            assert bench.sidecar.snapshot().waiting == 1
            assert bench.changes
            assert await bench.depth() == (2, 1, 0)
            bench.replica(echo)
            for one in ids:
                await bench.ledger.end_of(one)

        play(scene)

    def test_a_message_that_waits_for_hours_keeps_its_lease(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            one = await bench.send(bench.envelope())
            await asyncio.sleep(3 * 3600)
            bench.replica(echo)
            await bench.ledger.end_of(one)
            assert len([e for e in bench.ledger.events if isinstance(e, HopStarted)]) == 1

        play(scene)

    def test_a_handler_that_runs_for_hours_keeps_its_lease(self, play: Callable[..., Any]) -> None:
        calls = []

        async def slow(call: LoopbackCall) -> None:
            calls.append(call)
            await asyncio.sleep(5 * 3600)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(slow)
            await bench.ledger.end_of(await bench.send(bench.envelope()))
            assert len(calls) == 1

        play(scene, resiliency=Resiliency(actor_timeout_s=1e6))

    def test_slow_handlers_hold_no_message_in_advance(self, play: Callable[..., Any]) -> None:
        async def slow(call: LoopbackCall) -> None:
            await asyncio.sleep(0.2)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(slow)
            for _ in range(10):
                await bench.send(bench.envelope())
            await asyncio.sleep(0.5)
            ready, in_flight, _ = await bench.depth()
            assert in_flight == 1
            assert ready == 7
            await asyncio.sleep(5)

        play(scene)

    def test_fast_handlers_are_kept_busy(self, play: Callable[..., Any]) -> None:
        async def fast(call: LoopbackCall) -> None:
            await asyncio.sleep(0.001)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(fast)
            for _ in range(100):
                await bench.send(bench.envelope())
            await asyncio.sleep(0.02)
            assert bench.sidecar._consumer is not None
            assert bench.sidecar._consumer.window > 10
            await asyncio.sleep(1)

        play(scene)

    def test_concurrency_runs_as_many_at_a_time(self, play: Callable[..., Any]) -> None:
        running = []

        async def slow(call: LoopbackCall) -> None:
            running.append(1)
            most.append(len(running))
            await asyncio.sleep(0.2)
            running.pop()
            call.done()

        most: list[int] = []

        async def scene(bench: Bench) -> None:
            bench.replica(slow, concurrency=4)
            ids = [await bench.send(bench.envelope()) for _ in range(12)]
            for one in ids:
                await bench.ledger.end_of(one)
            assert max(most) == 4

        play(scene, concurrency=4)

    def test_work_is_spread_over_the_replicas(self, play: Callable[..., Any]) -> None:
        by = []

        def worker(name: str) -> Callable[..., Any]:
            async def handle(call: LoopbackCall) -> None:
                by.append(name)
                await asyncio.sleep(0.2)
                call.done()

            return handle

        async def scene(bench: Bench) -> None:
            bench.replica(worker("one"))
            bench.replica(worker("two"))
            ids = [await bench.send(bench.envelope()) for _ in range(8)]
            for one in ids:
                await bench.ledger.end_of(one)
            assert by.count("one") == by.count("two") == 4

        play(scene)


class TestRetries:
    def test_a_retry_comes_after_its_delay_and_counts(self, play: Callable[..., Any]) -> None:
        times = []

        async def flaky(call: LoopbackCall) -> None:
            times.append(asyncio.get_running_loop().time())
            if len(times) < 3:
                call.fail()
            else:
                call.frame("ok")
                call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(flaky)
            end = await bench.ledger.end_of(await bench.send(bench.envelope()))
            assert end.phase == "succeeded"
            assert end.attempt == 3
            assert [round(b - a) for a, b in itertools.pairwise(times)] == [2, 4]

        play(scene, resiliency=retrying(max_attempts=3, initial_delay_s=2))

    def test_the_last_error_ends_it_with_payload_and_headers_as_they_were_sent(
        self, play: Callable[..., Any]
    ) -> None:
        async def bad(call: LoopbackCall) -> None:
            call.frame("half done")
            call.fail("app.Boom", "broken")

        async def scene(bench: Bench) -> None:
            bench.replica(bad)
            envelope = bench.envelope("a", "b", payload={"keep": 1}, headers={"h": "v"})
            end = await bench.ledger.end_of(await bench.send(envelope))
            assert end.error is not None
            assert (end.phase, end.reason, end.error.type) == (
                "failed",
                "PolicyExhausted",
                "app.Boom",
            )
            (letter,) = bench.ledger.letters
            assert b'"payload":{"keep":1}' in letter.body
            assert end.headers["h"] == raw_json("v")
            assert await bench.received("b") == []

        play(scene)


class TestFanOut:
    def test_frames_become_envelopes_with_derived_ids(self, play: Callable[..., Any]) -> None:
        async def spread(call: LoopbackCall) -> None:
            for i in range(3):
                call.frame(i)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(spread)
            one = await bench.send(bench.envelope("a", "b"))
            await asyncio.sleep(1)
            out = await bench.received("b")
            assert [e.id for e in out] == [one, child_id(one, 0, 1), child_id(one, 0, 2)]
            forked = [e for e in bench.ledger.events if isinstance(e, Forked)]
            assert {e.parent_id for e in forked} == {one}
            assert len(forked) == 2

        play(scene)

    def test_a_handler_that_raises_after_frames_has_emitted_nothing(
        self, play: Callable[..., Any]
    ) -> None:
        async def half(call: LoopbackCall) -> None:
            for i in range(200):
                call.frame(i)
            call.fail()

        async def scene(bench: Bench) -> None:
            bench.replica(half)
            await bench.ledger.end_of(await bench.send(bench.envelope("a", "b")))
            assert await bench.received("b") == []

        play(scene)

    def test_past_the_bound_frames_flow_but_the_first_stays_to_the_end(
        self, play: Callable[..., Any]
    ) -> None:
        async def many(call: LoopbackCall) -> None:
            for i in range(1000):
                call.frame(i)
            await asyncio.sleep(10)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(many)
            one = await bench.send(bench.envelope("a", "b"))
            await asyncio.sleep(5)
            out = await bench.received("b")
            assert len(out) == 999
            assert one not in {e.id for e in out}
            await asyncio.sleep(10)
            (first,) = await bench.received("b")
            assert first.id == one

        play(scene)

    def test_a_failure_past_the_bound_fails_the_envelope_once(
        self, play: Callable[..., Any]
    ) -> None:
        async def many(call: LoopbackCall) -> None:
            for i in range(400):
                call.frame(i)
            call.fail()

        async def scene(bench: Bench) -> None:
            bench.replica(many)
            one = await bench.send(bench.envelope("a", "b"))
            end = await bench.ledger.end_of(one)
            assert end.phase == "failed"
            out = await bench.received("b")
            assert len(out) == 399
            assert one not in {e.id for e in out}

        play(scene)

    def test_a_flood_of_frames_holds_the_runtime_back(self, play: Callable[..., Any]) -> None:
        paused = []

        async def flood(call: LoopbackCall) -> None:
            for i in range(2000):
                call.frame(i)
                paused.append(call._runtime.paused)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(flood)
            await bench.send(bench.envelope("a", "b"))
            await asyncio.sleep(5)
            assert any(paused)
            assert len(await bench.received("b")) == 2000

        play(scene)

    def test_a_replica_that_was_held_back_is_heard_again_at_its_next_call(
        self, monkeypatch: pytest.MonkeyPatch, play: Callable[..., Any]
    ) -> None:
        async def burst(call: LoopbackCall) -> None:
            frames = [
                protocol.pack({"k": "frame", "id": call.number}, [b"%d" % i])
                for i in range(call.payload)
            ]
            done = protocol.pack({"k": "done", "id": call.number, "frames": len(frames)})
            # the end of the call comes in the same piece as what fills the flow
            assert call._runtime._replica is not None
            call._runtime._replica.data_received(b"".join([*frames, done]))

        async def scene(bench: Bench) -> None:
            runtime = bench.replica(burst)
            publish = bench.transport.publish

            async def slow(*args: Any, **kwargs: Any) -> Any:
                await asyncio.sleep(0.01)
                return await publish(*args, **kwargs)

            monkeypatch.setattr(bench.transport, "publish", slow)
            for count in (600, 3, 600, 257, 3):
                await publish(
                    queue_name("default", "a"),
                    encode(bench.envelope("a", "b", payload=count)),
                )
                await asyncio.sleep(10)
                assert not runtime.paused
                assert len(await bench.received("b")) == count

        play(scene)


class TestTime:
    def test_a_handler_that_overruns_is_killed_once_and_fails_as_a_timeout(
        self, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(forever)
            end = await bench.ledger.end_of(await bench.send(bench.envelope()))
            assert bench.killed == [1]
            assert end.error is not None
            assert end.error.type == "asya.errors.ActorTimeout"
            assert end.error is not None
            assert "TimeoutError" in end.error.mro
            assert bench.sidecar.snapshot().timeouts == 1
            assert round(asyncio.get_running_loop().time()) == 60

        play(scene, resiliency=retrying(max_attempts=1))

    def test_an_async_handler_is_asked_first(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(forever, cooperative=True)
            end = await bench.ledger.end_of(await bench.send(bench.envelope()))
            assert bench.killed == []
            assert end.error is not None
            assert end.error.type == "asya.errors.ActorTimeout"

        play(scene, resiliency=retrying(max_attempts=1))

    def test_an_async_handler_that_does_not_give_way_is_killed(
        self, play: Callable[..., Any]
    ) -> None:
        async def stubborn(call: LoopbackCall) -> None:
            while True:
                try:
                    await asyncio.sleep(1e6)
                except asyncio.CancelledError:
                    if not bench_now[0].runtimes[1].calls:
                        raise

        bench_now = []

        async def scene(bench: Bench) -> None:
            bench_now.append(bench)
            bench.replica(stubborn, cooperative=True)
            end = await bench.ledger.end_of(await bench.send(bench.envelope()))
            assert bench.killed == [1]
            assert end.error is not None
            assert end.error.type == "asya.errors.ActorTimeout"

        play(scene, resiliency=retrying(max_attempts=1))

    def test_a_timeout_can_be_retried(self, play: Callable[..., Any]) -> None:
        calls = []

        async def once_slow(call: LoopbackCall) -> None:
            calls.append(1)
            if len(calls) == 1:
                await asyncio.sleep(1e6)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(once_slow)
            one = await bench.send(bench.envelope())
            await asyncio.sleep(70)
            bench.replica(once_slow)
            assert (await bench.ledger.end_of(one)).phase == "succeeded"

        play(scene, resiliency=retrying(max_attempts=2))

    def test_neighbours_of_a_killed_call_run_again_and_are_not_blamed(
        self, play: Callable[..., Any]
    ) -> None:
        stuck: list[int] = []

        async def handle(call: LoopbackCall) -> None:
            if call.payload == "stuck" and not stuck:
                stuck.append(1)
                await asyncio.sleep(1e6)
            await asyncio.sleep(2)
            call.done()

        async def scene(bench: Bench) -> None:
            bench.replica(handle, concurrency=2)
            bad = await bench.send(bench.envelope(payload="stuck"))
            await asyncio.sleep(58.5)
            good = await bench.send(bench.envelope(payload="good"))
            await asyncio.sleep(3)
            bench.replica(handle, concurrency=2)
            assert (await bench.ledger.end_of(good)).phase == "succeeded"
            assert (await bench.ledger.end_of(bad)).phase == "failed"
            assert bench.sidecar.snapshot().lost == 0

        play(scene, resiliency=retrying(max_attempts=1), concurrency=2)

    def test_the_deadline_bounds_the_handler(self, play: Callable[..., Any]) -> None:
        async def scene(bench: Bench) -> None:
            bench.replica(forever)
            end = await bench.ledger.end_of(await bench.send(bench.envelope(deadline_s=5)))
            assert end.reason == "DeadlineExceeded"
            assert end.error is not None
            assert end.error.type == "asya.errors.ActorTimeout"
            assert round(asyncio.get_running_loop().time()) == 5

        play(scene, resiliency=retrying(max_attempts=5))

    def test_a_deadline_that_passed_in_the_queue_means_the_handler_is_not_called(
        self, play: Callable[..., Any]
    ) -> None:
        called = []

        async def note(call: Any) -> None:
            called.append(1)
            call.done()

        async def scene(bench: Bench) -> None:
            one = await bench.send(bench.envelope(deadline_s=5))
            await asyncio.sleep(6)
            bench.replica(note)
            end = await bench.ledger.end_of(one)
            assert (end.reason, called) == ("DeadlineExceeded", [])

        play(scene)

    def test_an_envelope_ends_at_its_deadline_though_no_replica_ever_comes(
        self, play: Callable[..., Any]
    ) -> None:
        async def scene(bench: Bench) -> None:
            first = await bench.send(bench.envelope(deadline_s=5))
            second = await bench.send(bench.envelope(deadline_s=7))
            for one in (first, second):
                assert (await bench.ledger.end_of(one)).reason == "DeadlineExceeded"
            assert round(asyncio.get_running_loop().time()) == 7

        play(scene)

    def test_the_longest_duration_counts_from_the_begin_of_the_first_attempt(
        self, play: Callable[..., Any]
    ) -> None:
        async def slow(call: LoopbackCall) -> None:
            await asyncio.sleep(8)
            call.fail()

        async def scene(bench: Bench) -> None:
            bench.replica(slow)
            end = await bench.ledger.end_of(await bench.send(bench.envelope()))
            assert (end.reason, end.attempt) == ("PolicyExhausted", 1)

        policy = {"max_attempts": 9, "initial_delay_s": 3, "max_duration_s": 10}
        play(scene, resiliency=retrying(**policy))
