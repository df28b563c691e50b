"""Names, schedules and configurations in JetStream."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from asya.errors import QueueMissing, TransportError
from asya.transports.nats.queues import Layout, check_name, keda_trigger, schedule_id, whole_ms

MOMENT = datetime(2026, 1, 1, 0, 0, 0, 1_001, tzinfo=UTC)


def test_a_schedule_is_never_earlier_than_asked() -> None:
    assert whole_ms(MOMENT).microsecond == 2_000
    exact = MOMENT.replace(microsecond=5_000)
    assert whole_ms(exact) == exact
    assert whole_ms(MOMENT.replace(microsecond=999_999)).second == 1


def test_the_same_id_names_the_same_schedule_and_no_id_a_new_one() -> None:
    assert schedule_id("a b.c>*") == schedule_id("a b.c>*")
    assert schedule_id("a") != schedule_id("b")
    assert schedule_id(None) != schedule_id(None)
    assert schedule_id("a b.c>*").isalnum()


def test_a_delayed_message_names_its_queue_and_its_time() -> None:
    layout = Layout("x")
    subject, headers = layout.schedule("asya-x-a", MOMENT, "id")
    assert subject == f"asya-x.d.asya-x-a.{schedule_id('id')}"
    assert headers["Nats-Schedule-Target"] == layout.subject("asya-x-a") == "asya-x.q.asya-x-a"
    assert headers["Nats-Schedule"].startswith("@at 2026-01-01T00:00:00.002")


def test_the_broker_drops_and_hides_nothing_by_itself() -> None:
    layout = Layout("x")
    consumer = layout.consumer_config("q", 2.5)
    assert consumer["max_deliver"] == consumer["max_ack_pending"] == -1
    assert consumer["ack_wait"] == 2_500_000_000
    assert not {"max_age", "max_msgs", "max_bytes"} & set(layout.stream_config())


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a*", "a>"])
def test_names_that_are_no_tokens_are_refused(name: str) -> None:
    with pytest.raises(QueueMissing, match="NATS"):
        check_name(name)
    with pytest.raises(TransportError, match="NATS"):
        Layout(name)


def test_the_trigger_reads_the_consumer_of_the_queue() -> None:
    metadata = keda_trigger("asya-x", "q", 7, "host:8222")["metadata"]
    assert (metadata["stream"], metadata["consumer"]) == ("asya-x", "q")
    assert metadata["lagThreshold"] == "7"
