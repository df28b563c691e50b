"""The arithmetic of a window, by tables and by any order of events; and its timers."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.testing.virtual_time import run_virtual
from asya.transports.base import Delivery
from asya.transports.intake import Intake, Limits, Prefetch, Refill

log = logging.getLogger("asya.transports.test")
LIMITS = Limits(refill_s=0.001, overflow_s=1.0)


class Message(Delivery):
    """A delivery that tells its intake when it is settled."""

    def __init__(self, intake: Intake[Message] | None = None, name: int = 0) -> None:
        self.body = b"%d" % name
        self.delivery_count = 1
        self.intake = intake
        self.requeued = False

    def ack(self) -> None:
        """Settle it."""
        assert self.intake is not None
        self.intake.settled()

    def requeue(self) -> None:
        """Settle it as not done."""
        self.requeued = True
        self.ack()

    def extend(self) -> None:
        """Nothing."""

    @property
    def held(self) -> bool:
        """Always."""
        return True


class World:
    """An intake, and what it did."""

    def __init__(self, window: int, limits: Limits = LIMITS) -> None:
        self.shown: list[Message] = []
        self.returned: list[Message] = []
        self.asked: list[int] = []
        self.settles_at_once = False
        self.intake: Intake[Message] = Intake(
            "q",
            log,
            window=window,
            limits=limits,
            on_delivery=self.show,
            give_back=self.returned.append,
            ask=self.ask,
        )
        self.intake.paused = False

    def show(self, delivery: Delivery) -> None:
        """Receive."""
        assert isinstance(delivery, Message)
        self.shown.append(delivery)
        if self.settles_at_once:
            delivery.ack()

    def ask(self, count: int) -> None:
        """Request."""
        self.asked.append(count)
        self.intake.prefetch.requested += count

    def arrive(self, count: int = 1) -> None:
        """Messages come that were requested."""
        for _ in range(count):
            self.intake.prefetch.requested -= 1
            self.intake.receive(Message(self.intake))


@pytest.mark.parametrize(
    ("window", "unsettled", "requested", "overflow", "batch_max", "free", "refill"),
    [
        (0, 0, 0, 0, 99, 0, Refill.NO),
        (1, 0, 0, 0, 99, 1, Refill.NOW),
        (1, 1, 0, 0, 99, 0, Refill.NO),
        (10, 0, 10, 0, 99, 0, Refill.NO),
        (10, 6, 0, 0, 99, 4, Refill.LATER),
        (10, 5, 0, 0, 99, 5, Refill.NOW),
        (10, 2, 3, 1, 99, 4, Refill.LATER),
        (100, 90, 0, 0, 10, 10, Refill.NOW),
        (100, 91, 0, 0, 10, 9, Refill.LATER),
        (2, 5, 3, 1, 99, -7, Refill.NO),
    ],
)
def test_places_and_whether_they_are_worth_a_request(
    window: int,
    unsettled: int,
    requested: int,
    overflow: int,
    batch_max: int,
    free: int,
    refill: Refill,
) -> None:
    prefetch: Prefetch[Message] = Prefetch(window)
    prefetch.unsettled, prefetch.requested = unsettled, requested
    prefetch.overflow.extend(Message() for _ in range(overflow))
    assert prefetch.free == free
    assert prefetch.refill(batch_max) is refill
    assert prefetch.has_room is (unsettled < window)


async def test_what_does_not_fit_waits_for_a_place_and_keeps_its_order() -> None:
    world = World(window=3)
    world.intake.refill()
    assert world.asked == [3]
    world.intake.set_window(1)
    messages = [Message(world.intake, number) for number in range(3)]
    for message in messages:
        world.intake.prefetch.requested -= 1
        world.intake.receive(message)
    assert world.shown == messages[:1]
    messages[0].ack()
    messages[1].ack()
    assert world.shown == messages
    assert world.returned == []
    assert world.intake.prefetch.unsettled == 1


async def test_a_receiver_that_settles_at_once_nests_no_calls() -> None:
    world = World(window=1)
    world.intake.prefetch.requested = 5000
    world.arrive()
    for _ in range(4999):
        world.arrive()
    world.settles_at_once = True
    world.shown[0].ack()  # a nested call per message would pass Python's limit of 1,000
    assert len(world.shown) == 5000
    assert world.intake.prefetch.unsettled == 0


def test_overflow_without_a_place_goes_back_in_time() -> None:
    async def scenario() -> None:
        world = World(window=2)
        world.intake.refill()
        world.intake.set_window(0)
        world.arrive(2)
        await asyncio.sleep(LIMITS.overflow_s - 0.01)
        assert world.returned == []
        await asyncio.sleep(0.02)
        assert len(world.returned) == 2
        assert world.shown == []

    run_virtual(scenario())


def test_few_free_places_are_gathered_and_a_pause_asks_for_nothing() -> None:
    async def scenario() -> None:
        world = World(window=10)
        world.intake.refill()
        world.arrive(10)
        world.shown[0].ack()
        world.shown[1].ack()
        assert world.asked == [10]
        await asyncio.sleep(LIMITS.refill_s * 2)
        assert world.asked == [10, 2]
        world.shown[2].ack()
        world.intake.pause()
        await asyncio.sleep(1)
        for message in world.shown[3:]:
            message.ack()
        assert world.asked == [10, 2]

    run_virtual(scenario())


async def test_a_receiver_that_fails_gives_its_message_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(window=1)
    failing = Message(world.intake)

    def fail(delivery: Delivery) -> None:
        raise RuntimeError("ours")

    world.intake._on_delivery = fail
    world.intake.receive(failing)
    assert failing.requeued
    assert world.intake.prefetch.unsettled == 0
    assert "RuntimeError: ours" in caplog.text


async def test_a_warning_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    intake = World(window=1).intake
    intake.recovered()
    for text in ("refused", "refused", "denied"):
        intake.warn(text)
    intake.recovered()
    intake.recovered()
    first, second, over = caplog.messages
    assert "refused" in first
    assert "denied" in second
    assert "q" in over


async def test_a_negative_window_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        World(window=1).intake.set_window(-1)


@given(
    st.lists(
        st.tuples(st.sampled_from(["window", "arrive", "settle", "return"]), st.integers(0, 9))
    )
)
def test_no_more_than_the_window_is_ever_shown(events: list[tuple[str, int]]) -> None:
    async def scenario() -> None:
        world = World(window=3)
        world.intake.refill()
        prefetch, settled = world.intake.prefetch, 0
        for event, number in events:
            before = prefetch.unsettled
            if event == "window":
                world.intake.set_window(number)
            elif event == "arrive":
                world.arrive(min(number, prefetch.requested))
            elif event == "settle" and settled < len(world.shown):
                settled += 1
                world.shown[settled - 1].ack()
            elif event == "return":
                world.intake.return_overflow()
            assert prefetch.unsettled <= max(before, prefetch.window)
            assert prefetch.unsettled == len(world.shown) - settled
            assert prefetch.requested >= 0
            # whatever is here and fits was shown
            assert not prefetch.overflow or not prefetch.has_room
        # nothing is lost on the way
        arrived = sum(world.asked) - prefetch.requested
        assert arrived == len(world.shown) + len(world.returned) + len(prefetch.overflow)

    run_virtual(scenario())
