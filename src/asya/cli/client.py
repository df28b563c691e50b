"""The client side of the gateway's HTTP API, for the commands that talk to a mesh.

Standard library only, because a command should start in a tenth of a second. Blocking: a command
does one thing, and `call -f` uses threads. Connections are made per request; on loopback that
costs less than keeping count of them. Called by the commands that talk to a mesh.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from asya.codes import Code
from asya.errors import MeshUnreachable, UsageError
from asya.local import run_file

REQUEST_TIMEOUT_S: Final = 30.0
"""How long an answer may take, apart from the time that a request asks the gateway to wait."""

STREAM_SILENCE_MAX_S: Final = 45.0
"""A stream that is silent for longer is dead: the gateway sends a comment every 15 s."""

RECONNECT_MAX_S: Final = 30.0
"""How long a broken stream is tried again before the mesh counts as gone."""

BUSY_MAX_S: Final = 600.0
"""How long a mesh that answers 429 (queues are full) is asked again."""

TERMINAL: Final = frozenset({"succeeded", "failed", "canceled"})
"""The statuses, as clients see them, that are final."""


class Refused(UsageError):
    """The gateway refused a request (4xx).

    Attributes:
        problem: The problem document, or an empty mapping.
    """

    def __init__(self, text: str, problem: Mapping[str, Any]) -> None:
        super().__init__(text, code=_code(problem))
        self.problem = problem

    def is_about(self, name: str) -> bool:
        """Whether the problem is the one of this name (`unknown-flow`)."""
        said = str(self.problem.get("type", ""))
        return said.startswith("urn:asya:problem:") and said.endswith(f":{name}")


def _code(problem: Mapping[str, Any]) -> Code:
    """The gateway's code; it may be of a later version, and have codes that are not known here."""
    try:
        return Code(str(problem.get("code")))
    except ValueError:
        return Code.REFUSED


class ServerEvent(NamedTuple):
    """One event of a stream: its id, its name, and the decoded JSON it carries."""

    id: str
    name: str
    data: Any


def is_end(event: ServerEvent) -> bool:
    """Whether nothing can follow this event."""
    return event.name == "status" and event.data.get("status") in TERMINAL


class Answer(NamedTuple):
    """What the gateway answered: the HTTP status and the decoded body, None when it was empty."""

    status: int
    body: Any


def find_mesh(url: str | None, folder: Path) -> str:
    """The address of the mesh: `url` when given, else the one that runs from `folder` or above.

    Raises:
        MeshUnreachable: None runs there.
    """
    if url:
        return url
    found = run_file.find(folder)
    if found is None:
        raise MeshUnreachable(
            f"no mesh runs in {folder}; start one with `asya up`, or pass --url or set ASYA_URL"
        )
    return found.url


class GatewayClient:
    """Talks to one gateway.

    Args:
        url: Its address.
        say: Told, once, that requests wait because the mesh is busy, and once per outage that the
            connection broke and is tried again.

    Every method raises `MeshUnreachable` when nothing answers or the mesh cannot work now (5xx),
    and `Refused` with the gateway's own words when it refuses (4xx).
    """

    def __init__(self, url: str, say: Callable[[str], None] = lambda text: None) -> None:
        self._say = say
        self._said_busy = False
        self._said_broken = False
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f"{url!r} is not the address of a mesh; expected http://HOST:PORT")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._secure = parts.scheme == "https"
        self._netloc = parts.netloc
        self._base = parts.path.rstrip("/")

    def get(self, path: str) -> Any:
        """The decoded body of a GET."""
        return self._ask("GET", path).body

    def get_bytes(self, path: str) -> tuple[bytes, Mapping[str, str]] | None:
        """The body of a GET as it came, with its headers (names in small letters); None for 404."""
        connection = self._connection(REQUEST_TIMEOUT_S)
        try:
            connection.request("GET", self._base + path)
            response = connection.getresponse()
            if response.status == http.client.NOT_FOUND:
                return None
            if response.status != http.client.OK:
                self._checked(_read(response))
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.read(), headers
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def post(
        self,
        path: str,
        body: bytes,
        *,
        wait_s: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """POST a JSON body that carries an id of its own, or whose query does.

        The same id is the same envelope, so a request whose connection broke is sent again for
        `RECONNECT_MAX_S`, and one that met full queues (429) for `BUSY_MAX_S`.

        Args:
            path: Path and query.
            body: JSON.
            wait_s: How long the gateway was asked to hold the answer back.
            headers: More headers.
        """
        started = time.monotonic()
        while True:
            try:
                answer, retry_after_s = self._exchange("POST", path, body, wait_s, headers)
            except MeshUnreachable as error:
                left_s = started + wait_s + RECONNECT_MAX_S - time.monotonic()
                if left_s < 0:
                    raise
                self._broken(error.__cause__ or error, left_s)
                time.sleep(0.5)
                continue
            self._said_broken = False
            busy = answer.status == http.client.TOO_MANY_REQUESTS
            if not busy or time.monotonic() - started > BUSY_MAX_S:
                return self._checked(answer)
            if not self._said_busy:
                self._said_busy = True
                self._say(f"the mesh is busy, trying again: {_problem_text(answer)}")
            time.sleep(retry_after_s)

    def delete(self, path: str) -> None:
        """DELETE a resource."""
        self._ask("DELETE", path)

    def events(self, envelope_id: str) -> Iterator[ServerEvent]:
        """The events of an envelope, history first, until its terminal one.

        A stream that breaks is taken up again after the last event seen.
        """
        path = f"/v1/envelopes/{quote(envelope_id, safe='')}/events"
        last_id = ""
        broken = opened = 0.0

        def on_open() -> None:
            nonlocal opened
            opened = time.monotonic()

        while True:
            opened = 0.0
            try:
                for event in self._stream(path, last_id, on_open):
                    broken = 0.0
                    self._said_broken = False
                    last_id = event.id or last_id
                    yield event
                    if is_end(event):
                        return
                raise ConnectionError("the stream ended before the envelope did")
            except (OSError, http.client.HTTPException) as error:
                now = time.monotonic()
                if opened and now - opened > RECONNECT_MAX_S:
                    # a stream that held, though without events: this is another break
                    broken, self._said_broken = 0.0, False
                broken = broken or now
                left_s = broken + RECONNECT_MAX_S - now
                if left_s <= 0:
                    raise self._unreachable(error) from error
                self._broken(error, left_s)
                time.sleep(0.5)

    def _broken(self, error: BaseException, left_s: float) -> None:
        if not self._said_broken:
            self._said_broken = True
            self._say(
                f"the connection to the mesh broke ({_reason(error)}); "
                f"trying again for {left_s:.0f} s"
            )

    def _stream(
        self, path: str, last_id: str, on_open: Callable[[], None]
    ) -> Iterator[ServerEvent]:
        connection = self._connection(STREAM_SILENCE_MAX_S)
        try:
            headers = {"Accept": "text/event-stream"}
            if last_id:
                headers["Last-Event-ID"] = last_id
            connection.request("GET", self._base + path, headers=headers)
            response = connection.getresponse()
            if response.status == http.client.TOO_MANY_REQUESTS or response.status >= 500:
                # Too many streams, or a gateway that is about to stop: both pass.
                raise ConnectionError(_problem_text(_read(response)))
            if response.status != http.client.OK:
                self._checked(_read(response))
            on_open()
            yield from parse_stream(response)
        finally:
            connection.close()

    def _ask(self, method: str, path: str) -> Answer:
        return self._checked(self._exchange(method, path, None, 0.0)[0])

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        wait_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Answer, float]:
        connection = self._connection(REQUEST_TIMEOUT_S + wait_s)
        all_headers = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            all_headers["Content-Type"] = "application/json"
        try:
            connection.request(method, self._base + path, body=body, headers=all_headers)
            response = connection.getresponse()
            return _read(response), _seconds(response.headers.get("Retry-After"))
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._netloc, timeout=timeout_s)

    def _unreachable(self, error: Exception) -> MeshUnreachable:
        return MeshUnreachable(
            f"no mesh answers at {self.url} ({_reason(error)}); start one with `asya up`, "
            "or pass --url or set ASYA_URL"
        )

    def _checked(self, answer: Answer) -> Answer:
        if answer.status < 400:
            return answer
        text = _problem_text(answer)
        if answer.status >= 500:
            raise MeshUnreachable(f"the mesh at {self.url} cannot do this now: {text}")
        raise Refused(text, answer.body if isinstance(answer.body, dict) else {})


def parse_stream(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[ServerEvent]:
    """The events in the lines of a `text/event-stream`; comments and empty events are skipped.

    Raises:
        ConnectionError: The lines ended inside an event.
    """
    event_id, name, data = "", "message", list[str]()
    for raw in lines:
        line = raw.decode("utf-8").rstrip("\r\n")
        if not line:
            if data:
                yield ServerEvent(event_id, name, json.loads("\n".join(data)))
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            event_id = value
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
    if data:
        raise ConnectionError("the stream ended inside an event")


def _read(response: http.client.HTTPResponse) -> Answer:
    body = response.read()
    if not body:
        return Answer(response.status, None)
    try:
        return Answer(response.status, json.loads(body))
    except ValueError:
        return Answer(response.status, body.decode("utf-8", "replace").strip())


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _seconds(retry_after: str | None) -> float:
    """The header's seconds, within bounds: it says how long to wait before the next try."""
    try:
        return min(max(float(retry_after or "1"), 0.1), 60.0)
    except ValueError:
        return 1.0


def _problem_text(answer: Answer) -> str:
    """What an RFC 9457 problem document says, in one text."""
    if not isinstance(answer.body, dict):
        return f"HTTP {answer.status}: {answer.body or 'no explanation'}"
    title, detail = answer.body.get("title"), answer.body.get("detail")
    lines = [str(detail or title or f"HTTP {answer.status}")]
    lines += [f"  {fault['path']}: {fault['message']}" for fault in answer.body.get("errors") or ()]
    return "\n".join(lines)
