"""A leased delivery is settled once, and never after its lease."""

from __future__ import annotations

import pytest

from asya.transports.leases import LeasedDelivery


class Holder:
    """A consumer with a clock that the test turns."""

    def __init__(self) -> None:
        self.time = 0.0
        self.sent: list[str] = []
        self.settlements = 0
        self.now = lambda: self.time

    def settled(self, delivery: object) -> None:
        """Count it."""
        self.settlements += 1


class Leased(LeasedDelivery[Holder]):
    """What a broker's delivery adds: the messages."""

    __slots__ = ()

    def extend(self) -> None:
        """For ten seconds from now."""
        if self.held:
            self.until = self._holder.time + 10

    def _send_ack(self) -> None:
        self._holder.sent.append("ack")

    def _send_nack(self) -> None:
        self._holder.sent.append("nack")


@pytest.mark.parametrize(
    ("calls", "at", "sent", "settlements"),
    [
        (["ack"], 0.0, ["ack"], 1),
        (["requeue"], 9.9, ["nack"], 1),
        (["ack", "ack", "requeue"], 0.0, ["ack"], 1),
        (["requeue", "ack"], 0.0, ["nack"], 1),
        (["ack"], 10.0, [], 1),
        (["requeue"], 10.0, [], 1),
        (["extend", "ack"], 10.0, [], 1),
        (["give_back"], 0.0, ["nack"], 0),
        (["give_back"], 11.0, [], 0),
    ],
)
def test_settling(calls: list[str], at: float, sent: list[str], settlements: int) -> None:
    holder = Holder()
    delivery = Leased(holder, b"body", 1, 10.0)
    holder.time = at
    for call in calls:
        getattr(delivery, call)()
    assert holder.sent == sent
    assert holder.settlements == settlements


def test_an_extension_begins_the_lease_anew() -> None:
    holder = Holder()
    delivery = Leased(holder, b"body", 1, 10.0)
    holder.time = 9.0
    delivery.extend()
    holder.time = 18.9
    assert delivery.held
    holder.time = 19.0
    assert not delivery.held
    delivery.extend()
    assert not delivery.held
