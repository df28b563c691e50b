"""Leases of SQS: an extension under way, and the bounds of a lease."""

from __future__ import annotations

from typing import Any, cast

import pytest

from asya.transports.sqs.acks import Change
from asya.transports.sqs.consumer import HOLD_MAX_S, PollConsumer, PollOptions, SqsDelivery


class Holder:
    """What a delivery needs of its consumer."""

    def __init__(self) -> None:
        self.options = PollOptions(lease_s=30, poll_s=20, batch_max=10)
        self.time = 0.0
        self.changes: list[Change] = []
        self.acks = self
        self.settlements = 0

    def now(self) -> float:
        """The test's clock."""
        return self.time

    def add(self, change: Change) -> None:
        """Note what SQS is to be told."""
        self.changes.append(change)

    def settled(self, delivery: Any) -> None:
        """Count it."""
        self.settlements += 1

    def delivery(self) -> SqsDelivery:
        """A message that came now."""
        return SqsDelivery(cast("PollConsumer", self), b"body", 1, "handle", self.time)


def test_the_lease_ends_here_before_it_ends_at_sqs() -> None:
    holder = Holder()
    assert holder.delivery().until == 30 - holder.options.margin_s
    assert PollOptions(5, 20, 10).margin_s == 0.5


@pytest.mark.parametrize(("well", "held_after"), [(True, True), (False, False)])
def test_an_extension_counts_from_when_it_was_asked_for(well: bool, held_after: bool) -> None:
    holder = Holder()
    delivery = holder.delivery()
    holder.time = 10.0
    delivery.extend()
    delivery.extend()
    (change,) = holder.changes
    assert change.visible_s == 30
    holder.time = 29.0
    change.close(well=well)
    assert delivery.held is held_after
    assert delivery.until == (38.0 if well else 28.0)


def test_what_is_given_back_waits_for_an_extension_under_way() -> None:
    holder = Holder()
    delivery = holder.delivery()
    delivery.extend()
    delivery.requeue()
    assert len(holder.changes) == 1
    holder.changes[0].close(well=True)
    assert [change.visible_s for change in holder.changes] == [30, 0]
    assert holder.settlements == 1


def test_an_ack_does_not_wait() -> None:
    holder = Holder()
    delivery = holder.delivery()
    delivery.extend()
    delivery.ack()
    assert [change.visible_s for change in holder.changes] == [30, None]


def test_sqs_holds_no_message_longer_than_half_a_day() -> None:
    holder = Holder()
    delivery = holder.delivery()
    holder.time = delivery.until = HOLD_MAX_S - 10.0
    delivery.until += 1
    delivery.extend()
    assert holder.changes[0].visible_s == 8
