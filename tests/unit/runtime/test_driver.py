"""Every kind of handler, and the commands, against a port that records what is emitted."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest

from asya.runtime.driver import Call, drive, drive_async
from asya.runtime.loading import Handler


class Recorder:
    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def frame(self, call_id: int, changes: dict[str, Any], payload: bytes) -> None:
        self.said.append(("frame", json.loads(json.dumps(changes)), json.loads(payload)))

    def fly(self, call_id: int, event: bytes) -> None:
        self.said.append(("fly", json.loads(event)))

    def result(self, call_id: int, changes: dict[str, Any], payload: bytes) -> None:
        self.frame(call_id, changes, payload)
        self.done(call_id, changes, 1)

    def done(self, call_id: int, changes: dict[str, Any], frames: int) -> None:
        self.said.append(("done", frames))

    def error(self, call_id: int, error: dict[str, Any]) -> None:
        self.said.append(("error", error["type"], error["message"]))

    def canceled(self, call_id: Any) -> None:
        self.said.append(("canceled",))

    async def drained(self) -> None:
        await asyncio.sleep(0)

    def check_process(self, error: Any) -> None: ...


def run(function: Any, payload: Any = None) -> list[Any]:
    handler = Handler("m.f", function, None)
    port = Recorder()
    envelope = {
        "id": "e1",
        "route": {"prev": ["a"], "curr": "b", "next": ["c"]},
        "headers": {"h": 1},
        "status": {"attempt": 1},
    }
    call = Call(1, envelope, json.dumps(payload).encode(), port)
    if handler.is_async:
        asyncio.run(drive_async(handler, call))
    else:
        drive(handler, call, lambda awaitable: asyncio.run(_result(awaitable)))
    return port.said


async def _result(awaitable: Any) -> Any:
    return await awaitable


def value(p: Any) -> Any:
    return p


async def coroutine(p: Any) -> Any:
    return p


def generator(p: Any) -> Any:
    yield p


async def async_generator(p: Any) -> Any:
    yield p


class Callable:
    def __call__(self, p: dict[str, Any]) -> dict[str, Any]:
        return p


class AsyncCallable:
    async def __call__(self, p: dict[str, Any]) -> dict[str, Any]:
        return p


async def coroutine_of_generator(p: dict[str, Any]) -> Any:
    return generator(p)


async def coroutine_of_async_generator(p: dict[str, Any]) -> Any:
    return async_generator(p)


@pytest.mark.parametrize(
    "function",
    [
        value,
        coroutine,
        generator,
        async_generator,
        Callable(),
        AsyncCallable(),
        functools.partial(coroutine),
        functools.partial(async_generator),
        functools.partial(lambda more, p: p, 1),
        lambda p: coroutine(p),
        lambda p: generator(p),
        lambda p: async_generator(p),
        coroutine_of_generator,
        coroutine_of_async_generator,
    ],
)
def test_every_kind_of_handler_gives_a_frame(function: Any) -> None:
    assert run(function, {"a": [1]}) == [("frame", {}, {"a": [1]}), ("done", 1)]


@pytest.mark.parametrize("function", [value, coroutine, lambda p: (x for x in p or [])])
def test_no_frame(function: Any) -> None:
    assert run(function, None) == [("done", 0)]


def test_an_iterator_is_no_generator() -> None:
    ((kind, error, text),) = run(lambda p: iter(()))

    assert (kind, error) == ("error", "TypeError")
    assert "tuple_iterator" in text


def test_a_list_is_one_payload() -> None:
    assert run(value, [1, 2]) == [("frame", {}, [1, 2]), ("done", 1)]


def test_commands_and_frames_in_their_order() -> None:
    def handle(p: None) -> Iterator[Any]:
        yield
        yield {"prev": (yield "GET", ".route.prev")}
        yield "SET", ".route.next", ["z"]
        yield "FLY", {"token": "t"}
        yield 2
        yield "SET", ".headers.k", {"v": 1}
        yield "DEL", ".headers.h"
        yield "SET", ".status.progress", 50
        yield [3]

    changed = {"next": ["z"], "set": {"k": {"v": 1}}, "del": ["h"], "status": {"progress": 50}}
    assert run(handle) == [
        ("frame", {}, {"prev": ["a"]}),
        ("fly", {"token": "t"}),
        ("frame", {"next": ["z"]}, 2),
        ("frame", changed, [3]),
        ("done", 3),
    ]


def test_the_same_in_an_async_generator() -> None:
    async def handle(p: None) -> AsyncIterator[Any]:
        got = yield "GET", ".headers.h"
        try:
            yield "SET", ".id", 1
        except PermissionError as error:
            got = [got, str(error)[:7]]
        yield got

    assert run(handle) == [("frame", {}, [1, "SET .id"]), ("done", 1)]


def test_yield_from_a_helper() -> None:
    def helper() -> Any:
        header = yield "GET", ".headers.h"
        yield "from the helper"
        return header

    def handle(p: None) -> Iterator[int | str | tuple[str, ...]]:
        yield (yield from helper())

    assert [said[2] for said in run(handle)[:2]] == ["from the helper", 1]


def test_a_value_returned_by_a_generator_is_its_last_frame() -> None:
    def handle(p: None) -> Generator[tuple[Any, ...], Any, Any]:
        yield "SET", ".headers.k", 1
        return "last"

    assert run(handle) == [("frame", {"set": {"k": 1}}, "last"), ("done", 1)]


def test_a_frame_is_what_it_was_when_it_was_yielded() -> None:
    def handle(p: None) -> Iterator[dict[str, Any]]:
        item = {"n": 1}
        yield item
        item["n"] = 2
        yield item

    assert [said[2] for said in run(handle)[:2]] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("command", "error", "text"),
    [
        (("GET", ".payload"), PermissionError, ".payload"),
        (("GET", ".headers.none"), KeyError, ".headers.none"),
        (("GET", "headers"), ValueError, "no path"),
        (("GET", 1), TypeError, "int"),
        (("GET",), ValueError, "the commands are"),
        (("SET", ".headers.a"), ValueError, "the commands are"),
        (("DEL", ".status.a"), PermissionError, ".status.a"),
        (("FLY", "text"), TypeError, "FLY takes an object"),
        (("FLY", {"a": object()}), TypeError, "$.a"),
        (("PUT", ".headers.a", 1), ValueError, "unknown verb 'PUT'"),
        (("FYL", {"a": 1}), ValueError, "unknown verb 'FYL'"),
        (("get", ".headers.a"), ValueError, "unknown verb 'get'"),
        ({"a": float("nan")}, ValueError, "$.a: nan"),
        (object(), TypeError, "object"),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_errors_are_raised_at_the_yield(
    command: dict[str, Any] | object | tuple[Any, ...], error: type[Any], text: str, kind: str
) -> None:
    space: dict[str, Any] = {"command": command, "seen": []}
    source = (
        f"{kind} handle(p):\n try:\n  yield command\n"
        " except BaseException as e:\n  seen.append(e)\n  raise\n"
    )
    exec(source, space)

    (said,) = run(space["handle"])

    assert said[0] == "error"
    assert type(space["seen"][0]) is error
    assert text in said[2]


@pytest.mark.parametrize("item", [("a", 1), (1, 2), ("file", ".env"), (), ("Ok", 1), ("GET ", 1)])
def test_tuples_that_are_frames(item: tuple[Any, ...]) -> None:
    def handle(p: None) -> Iterator[tuple[Any, ...]]:
        yield item

    assert run(handle) == [("frame", {}, list(item)), ("done", 1)]


def test_a_returned_tuple_is_no_command() -> None:
    assert run(lambda p: ("GET", ".id")) == [("frame", {}, ["GET", ".id"]), ("done", 1)]


def test_a_handler_goes_on_after_an_error_that_it_caught() -> None:
    def handle(p: None) -> Iterator[str | tuple[str, ...]]:
        for path in (".nothing", ".headers.none", "no path"):
            try:
                yield "GET", path
            except (PermissionError, KeyError, ValueError) as error:
                yield type(error).__name__

    assert [said[-1] for said in run(handle)] == ["PermissionError", "KeyError", "ValueError", 3]


def test_a_payload_that_does_not_fit_is_an_error_of_the_call() -> None:
    import dataclasses

    @dataclasses.dataclass
    class Query:
        text: str

    def handle(query: Query) -> str:
        return query.text

    assert run(handle, {"text": "a"})[0] == ("frame", {}, "a")
    assert run(handle, {})[0] == (
        "error",
        "asya.runtime.typed.PayloadMismatch",
        "the payload is no Query: $.text: is missing",
    )
