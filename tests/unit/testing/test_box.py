"""Handlers as users write them, in a mesh in a box: the whole of SPEC 2 and 4 on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from asya import crashpoints
from asya.envelope import child_id
from asya.errors import UnknownActor
from asya.resiliency import Policy, Resiliency
from asya.testing import assert_route, play
from asya.testing.box import MeshBox


def double(payload: dict[str, Any]) -> dict[str, Any]:
    return {"n": payload["n"] * 2}


def add_one(payload: dict[str, Any]) -> dict[str, Any]:
    return {"n": payload["n"] + 1}


def twice(**policy: Any) -> Resiliency:
    return Resiliency(policies={"default": Policy(max_attempts=2, initial_delay_s=600)})


def test_an_envelope_passes_its_route() -> None:
    async def scene(box: MeshBox) -> None:
        end = await box.run(["double", "add-one"], {"n": 3})
        assert_route(end, ["double", "add-one"])
        assert end.value == {"n": 7}

    play({"double": double, "add-one": add_one}, scene)


def test_assert_route_tells_what_went_wrong() -> None:
    def broken(payload: dict[str, Any]) -> None:
        raise ValueError("no luck")

    async def scene(box: MeshBox) -> None:
        end = await box.run(["broken"], {})
        with pytest.raises(AssertionError, match="PolicyExhausted: no luck"):
            assert_route(end, ["broken"])

    play({"broken": broken}, scene)


def test_a_retry_after_minutes_takes_no_time() -> None:
    calls = []

    def flaky(payload: int) -> str:
        calls.append(payload)
        if len(calls) == 1:
            raise ConnectionError("not yet")
        return "done"

    async def scene(box: MeshBox) -> None:
        end = await box.run(["flaky"], 1)
        assert (end.value, end.attempt, len(calls)) == ("done", 2, 2)
        assert asyncio.get_running_loop().time() > 299

    play({"flaky": flaky}, scene, resiliency=twice())


def test_a_handler_may_route_at_run_time() -> None:
    def router(payload: dict[str, Any]) -> Iterator[dict[str, Any] | tuple[Any, ...]]:
        rest = yield "GET", ".route.next"
        yield "SET", ".route.next[:0]", [payload["to"]]
        yield "SET", ".headers.seen", rest
        yield payload

    async def scene(box: MeshBox) -> None:
        end = await box.run(["router", "add-one"], {"to": "double", "n": 1})
        assert_route(end, ["router", "double", "add-one"])
        assert end.headers["seen"] == ["add-one"]
        assert end.value == {"n": 3}

    play({"router": router, "double": double, "add-one": add_one}, scene)


def test_fan_out_and_fly() -> None:
    async def spread(payload: int) -> AsyncIterator[Any]:
        for i in range(payload):
            yield "FLY", {"i": i}
            yield {"n": i}

    async def scene(box: MeshBox) -> None:
        one = await box.send(["spread", "double"], 3)
        ends = [await box.end_of(x) for x in (one, child_id(one, 0, 1), child_id(one, 0, 2))]
        assert [end.value["n"] for end in ends] == [0, 2, 4]
        assert box.flown(one) == [{"i": 0}, {"i": 1}, {"i": 2}]

    play({"spread": spread, "double": double}, scene)


def test_a_flood_of_frames_arrives_whole_while_little_of_it_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 0

    async def flood(payload: None) -> AsyncIterator[Any]:
        for _ in range(5_000):
            yield "x" * 100

    async def scene(box: MeshBox) -> None:
        nonlocal most
        publish = box._transport.publish
        under_way = 0

        async def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            receipt = await publish(*args, **kwargs)
            await asyncio.sleep(0.001)
            under_way -= 1
            return receipt

        monkeypatch.setattr(box._transport, "publish", counted)
        one = await box.run(["flood", "end"], None)
        while len(box.ledger.ends) < 5_000:
            await asyncio.sleep(1)
        assert one.phase == "succeeded"

    play({"flood": flood, "end": lambda payload: None}, scene)
    assert most < 600


@dataclass
class Query:
    text: str
    limit: int = 5


def test_a_typed_parameter_is_built_from_the_payload() -> None:
    def search(query: Query) -> list[str]:
        return [query.text] * query.limit

    async def scene(box: MeshBox) -> None:
        assert (await box.run(["search"], {"text": "a", "limit": 2})).value == ["a", "a"]
        end = await box.run(["search"], {"limit": "many"})
        assert end.phase == "failed"
        assert end.error is not None
        assert "text" in end.error.message
        assert "limit" in end.error.message

    play({"search": search}, scene)


def test_a_forbidden_path_fails_the_envelope() -> None:
    def cheat(payload: int) -> Iterator[tuple[str, ...] | None]:
        yield "SET", ".id", "other"

    async def scene(box: MeshBox) -> None:
        end = await box.run(["cheat"], 1)
        assert end.error is not None
        assert end.error.type == "PermissionError"
        assert ".id" in end.error.message

    play({"cheat": cheat}, scene)


def test_none_stops_the_route_with_the_payload_it_came_with() -> None:
    async def scene(box: MeshBox) -> None:
        end = await box.run(["stop", "double"], {"n": 1})
        assert_route(end, ["stop"])
        assert end.value == {"n": 1}

    play({"stop": lambda payload: None, "double": double}, scene)


@pytest.mark.parametrize("point", crashpoints.POINTS)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_crash_anywhere_loses_nothing_and_forks_nothing(point: str, after: int) -> None:
    def spread(payload: None) -> Iterator[dict[str, Any]]:
        yield {"n": 1}
        yield {"n": 2}

    async def scene(box: MeshBox) -> None:
        box.crash_at(point, after=after)
        ids = [await box.send(["spread", "double", "add-one"], None) for _ in range(3)]
        wanted = [x for one in ids for x in (one, child_id(one, 0, 1))]
        ends = [await box.end_of(one) for one in wanted]
        await asyncio.sleep(60)
        assert [end.value["n"] for end in ends] == [3, 5] * 3
        assert sorted(box.ledger.ends) == sorted(wanted)

    play({"spread": spread, "double": double, "add-one": add_one}, scene)


def test_a_killed_replica_s_envelope_runs_again() -> None:
    started = asyncio.Event()

    async def slow(payload: int) -> str:
        started.set()
        await asyncio.sleep(10)
        return "ok"

    async def scene(box: MeshBox) -> None:
        one = await box.send(["slow"], 1)
        await started.wait()
        box.kill("slow")
        assert (await box.end_of(one)).value == "ok"
        assert box.runs("slow") == 2

    play({"slow": slow}, scene)


def test_cancel_stops_an_async_handler() -> None:
    stopped = []

    async def slow(payload: int) -> None:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            stopped.append(1)
            raise

    async def scene(box: MeshBox) -> None:
        one = await box.send(["slow"], 1)
        await asyncio.sleep(1)
        box.cancel(one)
        assert (await box.end_of(one)).phase == "canceled"
        assert stopped

    play({"slow": slow}, scene)


def test_an_actor_that_the_box_does_not_have_is_named() -> None:
    async def scene(box: MeshBox) -> None:
        with pytest.raises(UnknownActor, match="did you mean 'double'"):
            await box.send(["duble"], 1)

    play({"double": double}, scene)
