"""Payloads over the threshold: they go to the blob store, and handlers notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from asya.blobs.base import BlobRef
from asya.blobs.claims import Claims, read_reference
from asya.blobs.memory import MemoryBlobs
from asya.envelope import BLOB_HEADER, decode, encode, new_envelope, raw_json
from asya.errors import BlobUnavailable, MessageTooLarge
from asya.events import HopEnded, HopStarted
from asya.resiliency import Policy, Resiliency
from asya.sidecar import restoring
from asya.sidecar.work import BYTES_MAX
from asya.testing.box import BLOB_THRESHOLD_BYTES, MeshBox, play
from asya.transports.base import Receipt

BIG = "x" * (2 * BLOB_THRESHOLD_BYTES)


def echo(payload: dict[str, Any] | int) -> dict[str, Any] | int:
    return payload


def length(payload: dict[str, Any]) -> int:
    return len(payload["text"])


def once_more(times: int) -> Resiliency:
    return Resiliency(policies={"default": Policy("default", times, initial_delay_s=60)})


class TestThroughActors:
    def test_the_exact_bytes_come_through_and_one_blob_holds_them(self) -> None:
        async def scene(box: MeshBox) -> None:
            end = await box.run(["a", "b", "c"], {"text": BIG, "ü": [1.50]})
            assert end.value == {"text": BIG, "ü": [1.50]}
            assert box.blobs.written == 1
            (body,) = box.blobs.blobs.values()
            assert msgspec.json.decode(body) == end.value

        play({"a": echo, "b": echo, "c": echo}, scene)

    def test_the_handler_sees_no_header_of_the_claim_check(self) -> None:
        def headers(payload: dict[str, Any]) -> Generator[Any, Any, None]:
            found = yield "GET", ".headers"
            yield sorted(found)

        async def scene(box: MeshBox) -> None:
            end = await box.run(["a"], {"text": BIG}, headers={"mine": 1})
            assert end.value == ["mine"]
            assert BLOB_HEADER not in end.headers

        play({"a": headers}, scene)

    def test_a_small_payload_after_a_big_one_travels_in_its_message(self) -> None:
        async def scene(box: MeshBox) -> None:
            end = await box.run(["a", "b"], {"text": BIG})
            assert (end.value, BLOB_HEADER in end.headers) == (len(BIG), False)

        play({"a": length, "b": echo}, scene)

    def test_none_ends_with_the_payload_that_came_without_a_second_blob(self) -> None:
        async def scene(box: MeshBox) -> None:
            end = await box.run(["a"], {"text": BIG})
            assert end.value == {"text": BIG}
            assert box.blobs.written == 1

        play({"a": lambda payload: None}, scene)

    def test_a_fan_out_of_twenty_stores_one_blob(self) -> None:
        def twenty(payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
            for _ in range(20):
                yield {"text": BIG}

        async def scene(box: MeshBox) -> None:
            await box.run(["a", "b"], {"text": "small"})
            while len(box.ledger.ends) < 20:
                await asyncio.sleep(1)
            assert box.blobs.written == 1

        play({"a": twenty, "b": echo}, scene)

    def test_a_fan_out_past_the_bound_on_bytes_holds_the_handler_back(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        big = "x" * 4_000_000

        def many(payload: None) -> Iterator[dict[str, Any]]:
            for number in range(12):
                yield {"number": number, "text": big}

        async def scene(box: MeshBox) -> None:
            under_way = most = 0
            put = box.blobs.put

            async def slow_disk(body: memoryview) -> BlobRef:
                nonlocal under_way, most
                under_way += len(body)
                most = max(most, under_way)
                await asyncio.sleep(10)
                under_way -= len(body)
                return await put(body)

            monkeypatch.setattr(box.blobs, "put", slow_disk)
            await box.run(["a", "b"], None)
            while len(box.ledger.ends) < 12:
                await asyncio.sleep(1)
            assert box.blobs.written == 12
            assert most <= BYTES_MAX + 2 * len(big)

        play({"a": many, "b": length}, scene)

    def test_hop_events_tell_size_and_digest_of_the_payload_itself(self) -> None:
        async def scene(box: MeshBox) -> None:
            await box.run(["a"], {"text": BIG})
            (digest,) = box.blobs.blobs
            events = [e for e in box.ledger.events if isinstance(e, HopStarted | HopEnded)]
            assert [event.body and event.body.sha256 for event in events] == [digest, digest]
            assert events[0].body is not None
            assert events[0].body.size == len(box.blobs.blobs[digest])

        play({"a": echo}, scene)

    def test_a_payload_goes_where_the_broker_refuses_the_message(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scene(box: MeshBox) -> None:
            refused = []
            publish = box._transport.publish

            async def small_broker(queue: str, body: bytes, **options: Any) -> Receipt:
                if len(body) > 9000:
                    refused.append(len(body))
                    raise MessageTooLarge(f"{len(body)} bytes")
                return await publish(queue, body, **options)

            monkeypatch.setattr(box._transport, "publish", small_broker)
            end = await box.run(["a", "b"], None)
            assert (end.phase, end.value, len(refused)) == ("succeeded", 10_000, 1)

        play({"a": lambda payload: {"text": "x" * 10_000}, "b": length}, scene)


class TestTroubleOnTheWay:
    def test_a_retry_passes_the_reference_on(self) -> None:
        seen = []

        def flaky(payload: dict[str, Any]) -> dict[str, Any]:
            seen.append(len(payload["text"]))
            if len(seen) < 3:
                raise RuntimeError("not yet")
            return payload

        async def scene(box: MeshBox) -> None:
            end = await box.run(["a"], {"text": BIG})
            assert (end.phase, end.attempt, seen) == ("succeeded", 3, [len(BIG)] * 3)
            assert box.blobs.written == 1

        play({"a": flaky}, scene, resiliency=once_more(3))

    def test_a_dead_letter_keeps_the_reference(self) -> None:
        def broken(payload: dict[str, Any]) -> None:
            raise RuntimeError("no")

        async def scene(box: MeshBox) -> None:
            end = await box.run(["a"], {"text": BIG})
            assert (end.phase, end.reason) == ("failed", "PolicyExhausted")
            (letter,) = box.ledger.letters
            dead = decode(letter.body)
            assert read_reference(dead.headers[BLOB_HEADER]).sha256 in box.blobs.blobs
            assert bytes(dead.payload) == b"null"

        play({"a": broken}, scene, resiliency=once_more(1))

    @pytest.mark.parametrize("damage", ["gone", "other bytes"])
    def test_a_blob_that_is_gone_or_damaged_fails_its_envelope(
        self, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        async def scene(box: MeshBox) -> None:
            gate = box.blobs.get

            async def damaged(ref: BlobRef) -> Any:
                if damage == "gone":
                    box.blobs.blobs.pop(ref.sha256, None)
                else:
                    box.blobs.blobs[ref.sha256] = b"y" * ref.size
                return await gate(ref)

            monkeypatch.setattr(box.blobs, "get", damaged)
            end = await box.run(["a"], {"text": BIG})
            assert (end.phase, end.reason) == ("failed", "BlobMissing")
            assert end.error is not None
            assert end.error.type == "asya.errors.BlobMissing"
            (letter,) = box.ledger.letters
            assert read_reference(decode(letter.body).headers[BLOB_HEADER]).size > len(BIG)
            assert box.runs("a") == 0
            # nothing is blocked
            monkeypatch.setattr(box.blobs, "get", gate)
            assert (await box.run(["a"], {"text": BIG + "!"})).phase == "succeeded"

        play({"a": echo}, scene, resiliency=once_more(5))

    def test_a_header_that_is_no_reference_fails_its_envelope(self) -> None:
        async def scene(box: MeshBox) -> None:
            strange = {BLOB_HEADER: {"sha256": "../../etc/passwd", "size": 3, "store": "memory"}}
            end = await box.run(["a"], None, headers=strange)
            assert (end.phase, end.reason) == ("failed", "BlobMissing")
            assert end.error is not None
            assert "is no reference to a blob" in end.error.message

        play({"a": echo}, scene)

    def test_a_store_that_does_not_answer_is_waited_for(self) -> None:
        async def scene(box: MeshBox) -> None:
            big = await box.send(["a"], {"text": BIG})
            box.blobs.outage = "the disk is full"
            small = await box.run(["a"], 1)
            assert small.phase == "succeeded"
            await asyncio.sleep(600)
            assert big not in box.ledger.ends
            box.blobs.outage = None
            assert (await box.end_of(big)).value == {"text": BIG}

        play({"a": echo}, scene, concurrency=2)

    def test_a_result_that_cannot_be_stored_now_is_stored_later(self) -> None:
        async def scene(box: MeshBox) -> None:
            box.blobs.outage = "the disk is full"
            sent = await box.send(["a"], "small")
            await asyncio.sleep(600)
            assert (box.runs("a"), sent in box.ledger.ends) == (1, False)
            box.blobs.outage = None
            assert (await box.end_of(sent)).value == BIG
            assert box.runs("a") == 1

        play({"a": lambda payload: BIG}, scene)

    def test_a_cancel_while_the_payload_is_waited_for(self) -> None:
        async def scene(box: MeshBox) -> None:
            big = await box.send(["a"], {"text": BIG})
            box.blobs.outage = "away"
            await asyncio.sleep(5)
            box.cancel(big)
            assert (await box.end_of(big)).phase == "canceled"
            assert box.runs("a") == 0

        play({"a": echo}, scene)

    def test_a_deadline_while_the_payload_is_waited_for(self) -> None:
        async def scene(box: MeshBox) -> None:
            big = await box.send(["a"], {"text": BIG}, timeout_s=30)
            box.blobs.outage = "away"
            end = await box.end_of(big)
            assert (end.phase, end.reason) == ("failed", "DeadlineExceeded")

        play({"a": echo}, scene)

    def test_the_death_of_a_replica_and_of_the_mesh(self) -> None:
        async def scene(box: MeshBox) -> None:
            box.crash_at("before-ack")
            end = await box.run(["a", "b"], {"text": BIG})
            assert (end.phase, end.value) == ("succeeded", {"text": BIG})
            assert box.blobs.written == 1

        play({"a": echo, "b": echo}, scene)

    def test_a_shutdown_gives_the_reference_back(self) -> None:
        async def scene(box: MeshBox) -> None:
            big = await box.send(["a"], {"text": BIG})
            box.blobs.outage = "away"
            await asyncio.sleep(1)
            for sidecar in box._sidecars.values():
                await sidecar.drain(10)
            box.blobs.outage = None
            await box.start()
            assert (await box.end_of(big)).value == {"text": BIG}

        play({"a": echo}, scene)


class TestMemory:
    def test_only_so_many_bytes_are_read_ahead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        size = 2 * BLOB_THRESHOLD_BYTES
        monkeypatch.setattr(restoring, "RESTORED_MAX_BYTES", 3 * size)
        most = 0

        async def slow(payload: dict[str, Any]) -> int:
            await asyncio.sleep(10)
            return 1

        async def scene(box: MeshBox) -> None:
            nonlocal most
            sent = [await box.send(["a"], {"text": BIG + str(n)}) for n in range(8)]
            while len(box.ledger.ends) < len(sent):
                most = max(most, box._sidecars["a"].restoring.held_bytes)
                await asyncio.sleep(1)
            assert 0 < most <= 3 * size
            assert box._sidecars["a"].restoring.held_bytes == 0

        play({"a": slow}, scene, concurrency=8)

    def test_one_payload_over_the_bound_goes_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(restoring, "RESTORED_MAX_BYTES", 10)

        async def scene(box: MeshBox) -> None:
            sent = [await box.send(["a"], {"text": BIG + str(n)}) for n in range(3)]
            for one in sent:
                assert (await box.end_of(one)).phase == "succeeded"

        play({"a": echo}, scene, concurrency=3)


class TestThreshold:
    async def test_it_never_is_over_what_the_transport_takes(self) -> None:
        claims = Claims(MemoryBlobs(), 10**9, message_max_bytes=1024 * 1024)
        assert claims.threshold_bytes < 1024 * 1024

    async def test_an_outage_leaves_the_envelope_as_it_was(self) -> None:
        store = MemoryBlobs()
        store.outage = "away"
        envelope = new_envelope(["a"], raw_json(BIG), now=datetime.now(UTC))
        before = encode(envelope)
        with pytest.raises(BlobUnavailable):
            await Claims(store, 5000).check_in(envelope)
        assert encode(envelope) == before
