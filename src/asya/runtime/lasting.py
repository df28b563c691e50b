"""The event loop that lives as long as the replica, so that clients in a handler survive.

`MainLoop` is the loop of asynchronous handlers, in the main thread. `ThreadLoop` serves plain
functions that turn out to return something awaitable: it starts with the first of them, in a thread
of its own, because the main thread must stay free of a running loop for functions that call
`asyncio.run`.
"""

from __future__ import annotations

import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any, Awaitable, Callable, Optional


class MainLoop:
    """An event loop of this thread. Made before the handler's class is, which may want one."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self.stopping = False

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run an awaitable to its end; only while `serve` does not run."""
        return self.loop.run_until_complete(_result(awaitable))

    def make(self, kind: Callable[[], Any]) -> Any:
        """Call `kind` with the loop running."""

        async def call() -> Any:
            return kind()

        return self.run(call())

    def serve(self) -> None:
        """Run until `stop`."""
        while not self.stopping:
            run_on(self.loop)

    def stop(self) -> None:
        """End `serve`."""
        self.stopping = True
        self.loop.stop()

    def close(self) -> None:
        """Cancel what still runs on the loop, and close it."""
        _close(self.loop)


class ThreadLoop:
    """An event loop in a daemon thread, started when it is first needed."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._stopping = False

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run an awaitable to its end on the loop, and wait for it; from any other thread."""
        import asyncio

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._loop,), name="asya-loop", daemon=True
                )
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(_result(awaitable), self._loop).result()

    def close(self) -> None:
        """Stop the loop, cancel what still runs on it, and close it."""
        if self._loop is not None and self._thread is not None:
            self._stopping = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            _close(self._loop)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        while not self._stopping:
            run_on(loop)


def run_on(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, or until a task of the user's raises `SystemExit`.

    asyncio lets `SystemExit` and `KeyboardInterrupt` of any task through to here; whoever awaits
    the task gets them as well. They are no reason to end the replica.
    """
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt) as error:
        print(f"a task raised {type(error).__name__}; the replica works on", file=sys.stderr)


async def _result(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _new_loop() -> asyncio.AbstractEventLoop:
    import asyncio

    if sys.version_info < (3, 10):
        # Locks and queues that a module made when it was imported are bound to this one.
        return asyncio.get_event_loop()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _close(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
