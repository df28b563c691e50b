"""What happens in a scenario, noted as flat entries: calls, sends, settlements, events, ends.

`Record` has the lists; `RecordedTransport` is the sidecars' connection to the memory broker. Each
entry has the fields that `scenario.FIELDS` names for its section.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec
from tests.scenarios.scenario import Entry

from asya.clock import from_rfc3339
from asya.envelope import Envelope, decode, queue_name
from asya.errors import ParseError
from asya.events import DeadLetter, Event, Finished
from asya.testing.ledger import MemoryLedger
from asya.testing.loopback import LoopbackCall
from asya.testing.virtual_time import VirtualClock
from asya.transports.base import Consumer, Delivery, Receipt
from asya.transports.memory.transport import MemoryBroker, MemoryTransport

NAMESPACE: Final = "scenario"

MESSAGES_MAX: Final = 3000
"""Deliveries and sends of one scenario; a mesh that makes more goes round in circles."""

SAME_IN_EVENTS: Final = (
    "id", "actor", "attempt", "state", "error", "root", "attempts_max", "replica", "seq", "data",
)  # fmt: skip
"""Fields of events that have the same name here."""


class Record:
    """Everything that happened so far.

    Attributes:
        deliveries: All that a sidecar was given, settled or not.
        closed: Nothing is noted any more: the scenario is over, and the mesh is taken down.
        too_much: Set when there were more than `MESSAGES_MAX` messages.
        confirm_after_s: How long the broker takes to confirm a message that it has.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.calls: list[Entry] = []
        self.published: list[Entry] = []
        self.settled: list[Entry] = []
        self.killed: list[Entry] = []
        self.deliveries: list[RecordedDelivery] = []
        self.closed = False
        self.too_much = asyncio.Event()
        self.confirm_after_s = 0.0
        self._messages = 0

    @property
    def time_s(self) -> float:
        """Seconds since the start."""
        return round(asyncio.get_running_loop().time(), 3)

    def since_start(self, moment: str | datetime | None) -> float | None:
        """A moment of an envelope or event, in seconds since the start."""
        if isinstance(moment, str):
            moment = from_rfc3339(moment)
        return None if moment is None else (moment - self.clock.start).total_seconds()

    def count_message(self) -> None:
        """Note one more delivery or send."""
        self._messages += 1
        if self._messages > MESSAGES_MAX:
            self.too_much.set()

    def note_call(self, actor: str, pid: int, beside: list[str], call: LoopbackCall) -> None:
        """A handler is called; `beside` are the ids that its replica works on already."""
        about = call.envelope
        self.calls.append(
            {
                "at": self.time_s,
                "actor": actor,
                "id": about["id"],
                "attempt": about["status"]["attempt"],
                "max_attempts": about["status"]["max_attempts"],
                "phase": about["status"]["phase"],
                "payload": call.payload,
                "headers": about["headers"],
                "next": about["route"]["next"],
                "replica": pid,
                "beside": sorted(beside),
            }
        )

    def everything(self, ledger: MemoryLedger) -> dict[str, list[Entry]]:
        """What happened, by section of `then`.

        Events of one moment are sorted by actor and hop: who of two actors tells first is no
        promise.
        """
        events = [self._event(event) for event in ledger.events]
        events.sort(key=lambda one: (one["at"], one["actor"] or "", one["hop"] or 0))
        return {
            "calls": self.calls,
            "published": self.published,
            "ends": [self._end(end) for end in ledger.ends.values()],
            "dead_letters": [self._dead_letter(letter) for letter in ledger.letters],
            "events": events,
            "settled": self.settled,
            "killed": self.killed,
        }

    def envelope(self, envelope: Envelope) -> Entry:
        """An envelope as an entry."""
        status = envelope.status
        return {
            "id": envelope.id,
            "parent": envelope.parent_id,
            "root": envelope.root,
            "hop": envelope.hop,
            "prev": envelope.route.prev,
            "next": envelope.route.next,
            "payload": msgspec.json.decode(envelope.payload),
            "headers": {name: envelope.header(name) for name in envelope.headers},
            "phase": status.phase,
            "actor": status.actor,
            "attempt": status.attempt,
            "max_attempts": status.max_attempts,
            "reason": status.reason,
            "error": msgspec.to_builtins(status.error),
            "deadline": self.since_start(envelope.deadline),
            "updated": self.since_start(status.updated_at),
            "status": {k: msgspec.json.decode(v) for k, v in envelope.status_extra.items()},
            "extra": {k: msgspec.json.decode(v) for k, v in envelope.extra.items()},
        }

    def _end(self, end: Finished) -> Entry:
        return {
            "at": self.since_start(end.at),
            "id": end.id,
            "parent": end.parent_id,
            "root": end.root,
            "hop": end.n,
            "prev": end.route.prev,
            "next": end.route.next,
            "payload": None if end.result is None else msgspec.json.decode(end.result),
            "headers": {name: msgspec.json.decode(value) for name, value in end.headers.items()},
            "phase": end.phase,
            "attempt": end.attempt,
            "reason": end.reason,
            "error": msgspec.to_builtins(end.error),
            "deadline": self.since_start(end.deadline_at),
        }

    def _dead_letter(self, letter: DeadLetter) -> Entry:
        entry = self.envelope(decode(letter.body))
        return {**entry, "at": self.since_start(letter.at), "reason": letter.reason}

    def _event(self, event: Event) -> Entry:
        told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
        route = told.get("route", {})
        return {
            "at": self.since_start(told["at"]),
            "event": told["type"],
            "hop": told.get("n"),
            "to": route.get("curr"),
            "prev": route.get("prev"),
            "next": route.get("next"),
            "retry_at": self.since_start(told.get("retry_at")),
            "parent": told.get("parent_id"),
            **{name: told.get(name) for name in SAME_IN_EVENTS},
        }


class RecordedTransport(MemoryTransport):
    """A connection that notes what is published and how deliveries are settled."""

    def __init__(self, record: Record, broker: MemoryBroker, message_max_bytes: int) -> None:
        super().__init__(
            NAMESPACE, broker=broker, clock=record.clock, message_max_bytes=message_max_bytes
        )
        self._record = record

    async def publish(
        self,
        queue: str,
        body: bytes,
        *,
        dedup_id: str | None = None,
        not_before: datetime | None = None,
    ) -> Receipt:
        """Publish; noted when the broker has it, returned when it has confirmed that."""
        record = self._record
        receipt = await super().publish(queue, body, dedup_id=dedup_id, not_before=not_before)
        record.count_message()
        if not record.closed:
            record.published.append(
                {
                    "at": record.time_s,
                    "to": queue.removeprefix(queue_name(NAMESPACE, "")),
                    "dedup": dedup_id,
                    "not_before": record.since_start(not_before),
                    "duplicate": receipt.duplicate,
                    **record.envelope(decode(body)),
                }
            )
        await asyncio.sleep(record.confirm_after_s)
        return receipt

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """Consume; each delivery notes how it is settled."""
        actor = queue.removeprefix(queue_name(NAMESPACE, ""))

        def recorded(delivery: Delivery) -> None:
            self._record.count_message()
            one = RecordedDelivery(self._record, actor, delivery)
            self._record.deliveries.append(one)
            on_delivery(one)

        return await super().consume(queue, recorded, window=window)


class RecordedDelivery(Delivery):
    """A delivery that notes how it is settled.

    Attributes:
        settlements: How often it was settled; once is right.
        extended: Whether its lease is extended when the sidecar asks for it.
        lost: The process that held it was killed, and can't settle it.
    """

    def __init__(self, record: Record, actor: str, inner: Delivery) -> None:
        self.body = inner.body
        self.delivery_count = inner.delivery_count
        self.actor = actor
        self.settlements = 0
        self.extended = True
        self.lost = False
        self._record = record
        self._inner = inner

    @property
    def id(self) -> str | None:
        """The envelope's id, or None if the bytes are no envelope."""
        try:
            return decode(self.body).id
        except ParseError:
            return None

    def ack(self) -> None:
        """Done."""
        self._note("ack")
        self._inner.ack()

    def requeue(self) -> None:
        """Not done."""
        self._note("requeue")
        self._inner.requeue()

    def extend(self) -> None:
        """Begin the lease anew."""
        if self.extended:
            self._inner.extend()

    @property
    def held(self) -> bool:
        """Whether the broker holds it for us."""
        return self._inner.held

    def _note(self, how: str) -> None:
        record = self._record
        if record.closed:
            return
        self.settlements += 1
        record.settled.append(
            {
                "at": record.time_s,
                "actor": self.actor,
                "id": self.id,
                "how": how,
                "delivery": self.delivery_count,
            }
        )
