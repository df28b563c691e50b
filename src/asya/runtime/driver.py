"""Runs one call of a handler: values, coroutines, generators, async generators, and the commands.

`drive` is for handlers that must not find a running event loop, `drive_async` for the others; both
give what the handler emits to a `Port`, in order, and end with exactly one of its `result`, `done`,
`error` or `canceled`. No exception of a handler leaves them, `SystemExit` and `KeyboardInterrupt`
included.
"""

from __future__ import annotations

import json

from asya.runtime import encode
from asya.runtime.errors import describe
from asya.runtime.scope import READABLE, Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, AsyncGenerator, Awaitable, Callable, Dict, Generator, Protocol

    from asya.runtime.loading import Handler
    from asya.runtime.protocol import Part

    class Port(Protocol):
        """Where a call's output goes. `changes` are those of `Scope.changes`."""

        def frame(self, call_id: int, changes: Dict[str, Any], payload: bytes) -> None:
            """One emitted frame; more may follow."""

        def fly(self, call_id: int, event: bytes) -> None:
            """One FLY event."""

        def result(self, call_id: int, changes: Dict[str, Any], payload: bytes) -> None:
            """The one frame of the call, and its end."""

        def done(self, call_id: int, changes: Dict[str, Any], frames: int) -> None:
            """The end of a call that went well."""

        def error(self, call_id: int, error: Dict[str, Any]) -> None:
            """The end of a call whose handler raised."""

        def canceled(self, call_id: int) -> None:
            """The end of a call that was cancelled."""

        async def drained(self) -> None:
            """Wait until the peer has taken enough for more to be emitted."""

        def check_process(self, error: BaseException) -> None:
            """End this process if it is one that the handler forked."""


_ROOTS = tuple("." + name for name in READABLE)
VERBS = ("GET", "SET", "DEL", "FLY")
_PLAIN = frozenset((dict, list, str, int, float, bool, type(None), tuple))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the payload holds {name}, which is no JSON number")


decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
"""A payload's text as the value that the handler is given."""


class Call:
    """One call under way.

    Attributes:
        id: Given by the sidecar.
        scope: What the handler may see and change of its envelope.
        frames: Emitted so far.
        canceled: The sidecar asked for the end of this call.
        port: Where its output goes.
    """

    __slots__ = ("_payload", "canceled", "frames", "id", "port", "scope")

    def __init__(self, call_id: int, envelope: Dict[str, Any], payload: Part, port: Port) -> None:
        self.id = call_id
        self.scope = Scope(envelope)
        self.frames = 0
        self.canceled = False
        self.port = port
        self._payload = payload

    def argument(self, handler: Handler) -> Any:
        """What the handler is called with.

        Raises:
            ValueError: The payload is no JSON, or does not fit the annotation.
        """
        try:
            payload = decode(str(self._payload, "utf-8"))
        except RecursionError:
            raise ValueError("the payload nests too deep for this Python to read") from None
        return payload if handler.build is None else handler.build(payload)

    def take(self, item: Any) -> Any:
        """Perform what a generator yielded: a command, which may have an answer, or a frame.

        Raises:
            Exception: To be raised in the handler at its `yield`.
        """
        if type(item) is tuple and _is_command(item):
            return self._command(*item)
        self._frame(item)
        return None

    def finish(self, value: Any) -> None:
        """End the call with the value that the handler returned; None = no frame of its own."""
        if value is None:
            self.port.done(self.id, self.scope.changes(), self.frames)
        elif self.frames:
            self._frame(value)
            self.port.done(self.id, self.scope.changes(), self.frames)
        else:
            self.port.result(self.id, self.scope.changes(), encode.encode(value))

    def fail(self, error: BaseException) -> None:
        """End the call with what the handler raised."""
        self.port.check_process(error)
        self.port.error(self.id, describe(error))

    def _frame(self, value: Any) -> None:
        self.port.frame(self.id, self.scope.changes(), encode.encode(value))
        self.frames += 1

    def _command(self, verb: str, *rest: Any) -> Any:
        if verb == "GET" and len(rest) == 1:
            return self.scope.get(rest[0])
        if verb == "SET" and len(rest) == 2:
            self.scope.set(rest[0], rest[1])
            return None
        if verb == "DEL" and len(rest) == 1:
            self.scope.delete(rest[0])
            return None
        if verb == "FLY" and len(rest) == 1:
            event = encode.encode(rest[0])
            if event[:1] != b"{":
                raise TypeError(f"FLY takes an object (a dict), not {type(rest[0]).__name__}")
            self.port.fly(self.id, event)
            return None
        if verb in VERBS:
            raise ValueError(
                f"{verb} with {len(rest)} values; the commands are 'GET', path; 'SET', path, value; "
                "'DEL', path; 'FLY', object"
            )
        raise ValueError(
            f"unknown verb {verb!r}; the verbs are {', '.join(VERBS)} (to emit a tuple that begins "
            "with such a word as a frame, yield it as a list)"
        )


def _is_command(item: Any) -> bool:
    """A verb, or what can only be meant as one: a word in capitals, or a word before a path."""
    verb = item[0] if item else None
    if type(verb) is not str or not verb.isalpha():
        return False
    if verb in VERBS or (verb.isascii() and verb.isupper()):
        return True
    return len(item) > 1 and type(item[1]) is str and item[1].startswith(_ROOTS)


def drive(handler: Handler, call: Call, run: Callable[[Awaitable[Any]], Any]) -> None:
    """Run a call to its end in this thread, which has no running event loop.

    `run` runs an awaitable on the replica's lasting loop and gives back its result, for plain
    functions that return something asynchronous.
    """
    try:
        value = handler.call(call.argument(handler))
        if type(value) not in _PLAIN:
            if _is_generator(value):
                value = _drain(value, call)
            elif hasattr(value, "__await__") or _is_async_generator(value):
                run(_drive_rest(value, call))
                return
        call.finish(value)
    except BaseException as error:
        call.fail(error)


async def drive_async(handler: Handler, call: Call) -> None:
    """Run a call to its end in the running event loop."""
    try:
        value = handler.call(call.argument(handler))
        if type(value) not in _PLAIN:
            await _drive_rest(value, call)
        else:
            call.finish(value)
    except BaseException as error:
        _fail_async(error, call)


async def _drive_rest(value: Any, call: Call) -> None:
    """Await, then iterate, what an asynchronous handler gave; ends the call."""
    try:
        if hasattr(value, "__await__"):
            value = await value
        if type(value) not in _PLAIN:
            if _is_async_generator(value):
                await _drain_async(value, call)
                value = None
            elif _is_generator(value):
                value = _drain(value, call)
        call.finish(value)
    except BaseException as error:
        _fail_async(error, call)


def _fail_async(error: BaseException, call: Call) -> None:
    import asyncio

    if call.canceled and isinstance(error, asyncio.CancelledError):
        call.port.canceled(call.id)
    else:
        call.fail(error)


def _drain(generator: Generator[Any, Any, Any], call: Call) -> Any:
    """Run a generator to its end; gives back what it returned."""
    reply: Any = None
    error: Any = None
    take = call.take
    while True:
        try:
            item = generator.send(reply) if error is None else generator.throw(error)
        except StopIteration as stop:
            return stop.value
        reply = error = None
        if item is not None:
            try:
                reply = take(item)
            except Exception as problem:
                error = problem.with_traceback(None)


async def _drain_async(generator: AsyncGenerator[Any, Any], call: Call) -> None:
    reply: Any = None
    error: Any = None
    try:
        while True:
            try:
                if error is None:
                    item = await generator.asend(reply)
                else:
                    item = await generator.athrow(error)
            except StopAsyncIteration:
                return
            reply = error = None
            if item is not None:
                try:
                    reply = call.take(item)
                except Exception as problem:
                    error = problem.with_traceback(None)
                await call.port.drained()
    finally:
        await generator.aclose()


def _is_generator(value: Any) -> bool:
    kind = type(value)
    return all(hasattr(kind, name) for name in ("send", "throw", "close", "__next__"))


def _is_async_generator(value: Any) -> bool:
    kind = type(value)
    return all(hasattr(kind, name) for name in ("asend", "athrow", "aclose", "__anext__"))
