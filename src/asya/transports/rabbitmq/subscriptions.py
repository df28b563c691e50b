"""The AMQP consumers that a window is made of. Pure.

The broker fixes a consumer's prefetch when it begins. So a window is made of subscriptions whose
prefetches add up to it: one that grows adds another for the difference, and one that shrinks ends
as many as are too much.

Called by `asya.transports.rabbitmq.consumer`.
"""

from __future__ import annotations


class Subscription:
    """One AMQP consumer: may hold `prefetch` messages, holds `unsettled`."""

    __slots__ = ("ending", "prefetch", "tag", "unsettled")

    def __init__(self, tag: str, prefetch: int) -> None:
        self.tag = tag
        self.prefetch = prefetch
        self.unsettled = 0
        self.ending = False


class Subscriptions:
    """Those of one channel. Tags are never used twice, also on other channels."""

    __slots__ = ("_by_tag", "_serial")

    def __init__(self) -> None:
        self._by_tag: dict[str, Subscription] = {}
        self._serial = 0

    def __contains__(self, tag: str) -> bool:
        return tag in self._by_tag

    def all(self) -> list[Subscription]:
        """Those that the broker knows."""
        return list(self._by_tag.values())

    def add(self, prefetch: int) -> Subscription:
        """Another one."""
        self._serial += 1
        subscription = Subscription(f"asya-{self._serial}", prefetch)
        self._by_tag[subscription.tag] = subscription
        return subscription

    def remove(self, subscription: Subscription) -> int:
        """It has ended: returns how many more messages it could have brought."""
        if self._by_tag.pop(subscription.tag, None) is None:
            return 0
        return subscription.prefetch - subscription.unsettled

    def clear(self) -> None:
        """The channel is gone."""
        self._by_tag.clear()

    def idle(self) -> list[Subscription]:
        """Those that hold nothing; several can be replaced by one."""
        found = [one for one in self._by_tag.values() if not one.unsettled and not one.ending]
        return found if len(found) > 1 else []

    def excess(self, window: int, held: int) -> list[Subscription]:
        """Those to end so that no more than the window can be held.

        Args:
            window: How many messages may be held.
            held: How many are, those of ended subscriptions included.
        """
        live = self._by_tag.values()
        staying = [one for one in live if not one.ending]
        # As it will be when those that are being ended have answered.
        room = window - held + sum(one.unsettled - one.prefetch for one in staying)
        # Those with the most places that are not used first: it takes the fewest.
        staying.sort(key=lambda one: one.prefetch - one.unsettled)
        ending = []
        while room < 0 and staying:
            subscription = staying.pop()
            room += subscription.prefetch - subscription.unsettled
            ending.append(subscription)
        return ending
