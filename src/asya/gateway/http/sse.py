"""One open event stream (server-sent events) of an envelope.

History and live events are both read from the store, after the number that was sent last. Only FLY
events come from the watch. They go out before the terminal event, and nothing goes out after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from asya.gateway.http.present import event_text, fly_text
from asya.tasks.refusals import Refusal
from asya.tasks.service import TaskService
from asya.tasks.store.base import EventPage
from asya.tasks.watchers import Watch

PAGE: Final = 100
"""Events that are read from the store at a time."""

COMMENT_EVERY_S: Final = 15.0
"""A comment after so many quiet seconds keeps proxies from closing the stream."""

_RETRY: Final = b"retry: 1000\n\n"
_COMMENT: Final = b": still here\n\n"
log = logging.getLogger(__name__)


class EventStream(Response):
    """The answer that streams.

    Args:
        service: Where events come from.
        id: The envelope, known to exist.
        after: Number of the last event that the client has seen.
        on_end: Called when the stream has ended, for whatever reason.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        service: TaskService,
        id: str,
        after: int,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._service = service
        self._id = id
        self._after = after
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the envelope has ended, the client is gone, or the gateway shuts down."""
        try:
            with self._service.watch(self._id) as watch:
                gone = asyncio.create_task(_close_when_gone(receive, watch))
                try:
                    await send(
                        {
                            "type": "http.response.start",
                            "status": 200,
                            "headers": self.raw_headers,
                        }
                    )
                    await self._send(send, _RETRY)
                    await self._run(send, watch)
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                finally:
                    gone.cancel()
        finally:
            self._on_end()

    async def _run(self, send: Send, watch: Watch) -> None:
        while not watch.closing:
            try:
                page = await self._service.events(self._id, after=self._after, limit=PAGE)
            except Refusal as error:  # the client connects again and resumes
                log.warning("an event stream was cut: %s", error, extra={"envelope": self._id})
                return
            if page is None:
                return
            ended = await self._send_page(send, watch, page)
            full = len(page.events) == PAGE
            if ended or (page.ended and not full):
                return
            if not full and not await watch.woken(COMMENT_EVERY_S):
                await self._send(send, _COMMENT)

    async def _send_page(self, send: Send, watch: Watch, page: EventPage) -> bool:
        texts: list[bytes] = []
        last = b""
        for event in page.events:
            text, ends = event_text(self._id, event)
            self._after = event.seq
            if ends:
                last = text
                break
            texts.append(text)
        texts += [fly_text(event) for event in watch.take_flown()]
        texts.append(last)
        data = b"".join(texts)
        if data:
            await self._send(send, data)
        return bool(last)

    async def _send(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})


async def _close_when_gone(receive: Receive, watch: Watch) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    watch.close()
