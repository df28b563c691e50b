"""Calls of SQS that end in bounded time, in our errors, and with one line per outage.

Rules of this file: it is the only one that imports `aiobotocore`, and does so when it connects.
One client serves everything; its pool opens as many connections as there are calls under way, so
long polls never keep a publish waiting. Credentials come from botocore's provider chain alone:
while they are refused the client is made anew for each try, so that changed ones are found.

Called by `asya.transports.sqs.transport` and by what it is made of.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import functools
import logging
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from asya.addresses import Address
from asya.codes import Code
from asya.errors import QueueMissing, TransportError, TransportUnavailable, how_to_install
from asya.transports.backoff import RECONNECT_JITTER, Backoff
from asya.transports.outage import Outage

log = logging.getLogger("asya.transports.sqs")

CONNECTIONS_MAX: Final = 10_000
"""No limit in practice: what is under way at a time is limited by who calls."""
ATTEMPTS_MAX: Final = 3
INTERNALS: Final = {
    "aiobotocore.session:AioSession": ("get_component", "register_component", "create_client"),
}
"""Not documented: the loader of one session is given to the next, since reading what a service
looks like takes 0.1 s."""
PROBE_FIRST_S: Final = 0.2
PROBE_MAX_S: Final = 5.0
RETIRE_S: Final = 30.0
"""How long a client is kept after another took its place: longer than a poll takes."""
THROTTLED_S: Final = 30.0
"""How long SQS must not have throttled for that to be over, in seconds."""
TEXT_MAX: Final = 300

_CREDENTIALS: Final = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_THROTTLED: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "KmsThrottled",
        "OverLimit",
        "RequestLimitExceeded",
        "RequestThrottled",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_MISSING: Final = frozenset({"NonExistentQueue", "QueueDoesNotExist"})
_NO_CREDENTIALS: Final = frozenset(
    {
        "CredentialRetrievalError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)
_XML_CODE: Final = re.compile(r"<Code>([\w.]+)</Code>")
_XML_TEXT: Final = re.compile(r"<Message>([^<]*)</Message>")
_REASONS: Final = {
    "ConnectTimeoutError": "no connection in time",
    "EndpointConnectionError": "nobody answers there",
    "ReadTimeoutError": "no answer in time",
    "SSLError": "its certificate is not trusted, or it speaks no TLS",
}


class Refused(TransportError):
    """SQS answered that it will not.

    Attributes:
        reason: The error's code, as SQS calls it, such as `AccessDenied`.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class CredentialsRefused(TransportUnavailable):
    """There are no credentials, or SQS does not take them (now)."""


class Connection:
    """SQS at one address.

    Attributes:
        outage: Whether calls succeed; its callbacks tell of changes.
        timeout_s: How long an answer is waited for, in seconds.
        skew_s: How far SQS's clock is before ours, by its last answer that told its time.
    """

    def __init__(self, address: Address, *, connect_timeout_s: float, timeout_s: float) -> None:
        self._region = address.host
        self._endpoint = address.text("endpoint") or None
        self.where = f"SQS in {address.where}"
        self._connect_timeout_s = connect_timeout_s
        self.timeout_s = timeout_s
        self.skew_s: float | None = None
        self.outage = Outage(self.where, log)
        self._client: Any = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._ended = asyncio.Event()
        self._probe_name = ""
        self._probe: asyncio.Task[None] | None = None
        self._answered_at = float("-inf")
        self._throttled_at: float | None = None

    @property
    def trouble(self) -> str | None:
        """Why SQS cannot be used now."""
        if self._client is None:
            return f"no connection to {self.where}"
        return (
            f"no connection to {self.where}: {reason}" if (reason := self.outage.reason) else None
        )

    @property
    def closed(self) -> bool:
        """Whether nothing can be called, before `open` and for good after `close`."""
        return self._client is None

    async def open(self, probe: str) -> None:
        """Make the client, and ask for the queue `probe`, which need not exist.

        Raises:
            TransportUnavailable: Nobody answers.
            TransportError: SQS refuses the credentials or the question.
        """
        self._probe_name = probe
        try:
            self._client = await self._make_client()
            await self._ask_probe(self._connect_timeout_s)
            self.outage.established()
        except CredentialsRefused as error:
            await self.close()
            raise TransportError(str(error)) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect; calls under way fail. Idempotent."""
        self.drop()
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    def drop(self) -> None:
        """Disconnect without waiting for it."""
        if self._closed:
            return
        self._closed = True
        if self._probe is not None:
            self._probe.cancel()
            self._closing.add(self._probe)
            self._probe = None
        self._ended.set()
        client, self._client = self._client, None
        self._discard(client)

    async def call(
        self, operation: str, *, queue: str = "", within_s: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Call SQS.

        Args:
            operation: As botocore calls it, such as `send_message_batch`.
            queue: Which queue of ours it is about, for texts.
            within_s: How long it may take, in seconds; `timeout_s` if it is not given.
            arguments: The operation's.

        Raises:
            QueueMissing: There is no such queue.
            TransportUnavailable: No answer, or none that counts; a retry helps.
            Refused: SQS will not.
        """
        client = self._client
        if client is None:
            raise TransportUnavailable(f"the connection to {self.where} was closed")
        limit_s = self.timeout_s if within_s is None else within_s
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(limit_s):
                answer: dict[str, Any] = await getattr(client, operation)(**arguments)
        except TimeoutError as error:
            if self._closed:
                raise TransportUnavailable(f"the connection to {self.where} was closed") from error
            self._failed(f"no answer within {limit_s:g} s", began)
            raise TransportUnavailable(
                f"{self.where} did not answer within {limit_s:g} s"
            ) from error
        except Exception as error:
            raise self._translated(error, queue, began) from error
        self._answered(began)
        return answer

    async def pages(self, operation: str, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        """All answers of an operation that gives them in parts."""
        token = None
        while True:
            more: dict[str, Any] = {} if token is None else {"NextToken": token}
            page = await self.call(operation, **arguments, **more)
            yield page
            token = page.get("NextToken")
            if not token:
                return

    def entry_error(self, failed: dict[str, Any], queue: str) -> TransportError:
        """What the failure of one entry of a batch means."""
        code = str(failed.get("Code", "")).rpartition(".")[2]
        text = _first_line(str(failed.get("Message") or "no reason given"))
        if code in _MISSING:
            return _missing(queue, self.where)
        if code in _THROTTLED:
            self._throttled(code)
            return TransportUnavailable(f"{self.where} throttles: {code}: {text}")
        if not failed.get("SenderFault", False):
            return TransportUnavailable(f"{self.where} failed: {code}: {text}")
        return Refused(f"{self.where} refused a message for {queue}: {code}: {text}", code)

    def _translated(self, error: Exception, queue: str, began: float) -> TransportError:
        if self._closed:
            return TransportUnavailable(f"the connection to {self.where} was closed")
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return self._translated_answer(response, queue, began)
        kind = type(error).__name__
        if kind in _NO_CREDENTIALS:
            text = (
                "no usable credentials in the provider chain (AWS_ACCESS_KEY_ID, a profile, a role)"
            )
            self._failed(text, began)
            return CredentialsRefused(f"{self.where}: {text}", code=Code.TRANSPORT)
        if kind in {"ParamValidationError", "TypeError", "ValueError"}:
            return Refused(f"{self.where}: {_first_line(str(error))}", kind)
        reason = _REASONS.get(kind, "the connection broke")
        self._failed(reason, began)
        return TransportUnavailable(f"{self.where} cannot be reached: {reason}")

    def _translated_answer(
        self, response: dict[str, Any], queue: str, began: float
    ) -> TransportError:
        code, why = _fault(response["Error"])
        text = f"{code}: {why}"
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _CREDENTIALS:
            self._failed(f"the credentials are refused: {text}", began)
            return CredentialsRefused(f"{self.where} refuses the credentials: {text}")
        if code in _THROTTLED or status == 429:
            self._throttled(code)
            return TransportUnavailable(f"{self.where} throttles: {text}")
        if status >= 500:
            self._failed(text, began)
            return TransportUnavailable(f"{self.where} failed: {text}")
        self._answered(began)
        if code in _MISSING:
            return _missing(queue, self.where)
        if code == "QueueDeletedRecently":
            return TransportUnavailable(
                f"{self.where} does not make the queue {queue} again before 60 s have passed "
                "since it was deleted"
            )
        return Refused(f"{self.where} refused: {text}", code)

    def _failed(self, reason: str, began: float) -> None:
        """Note that a call got no answer; an older one than the last answer says nothing new."""
        if self._closed or not self.outage.up or began < self._answered_at:
            return
        self._probe = asyncio.get_running_loop().create_task(self._keep_probing())
        self.outage.lost(reason)

    def _answered(self, began: float) -> None:
        now = asyncio.get_running_loop().time()
        if self._throttled_at is not None and now - self._throttled_at > THROTTLED_S:
            self._throttled_at = None
            log.warning("%s throttles no longer", self.where)
        if self.outage.reason and began < self.outage.lost_at:
            return
        self._answered_at = now
        if self.outage.reason:
            self.outage.over()

    def _throttled(self, code: str) -> None:
        if self._throttled_at is None:
            log.warning("%s throttles (%s); going on more slowly", self.where, code)
        self._throttled_at = asyncio.get_running_loop().time()

    async def _keep_probing(self) -> None:
        delays = Backoff(PROBE_FIRST_S, PROBE_MAX_S, jitter=RECONNECT_JITTER)
        while not self.outage.up:
            await asyncio.sleep(delays.next())
            try:
                await self._ask_probe(self.timeout_s)
            except CredentialsRefused:
                await self._renew_client()
            except TransportError:
                continue
        self._probe = None

    async def _ask_probe(self, within_s: float) -> None:
        try:
            answer = await self.call("get_queue_url", within_s=within_s, QueueName=self._probe_name)
        except QueueMissing:
            return
        self._note_time(answer)

    def _note_time(self, answer: dict[str, Any]) -> None:
        told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        with contextlib.suppress(TypeError, ValueError):
            moment = email.utils.parsedate_to_datetime(told)
            # It tells whole seconds, so on average it is half a second late.
            half = timedelta(seconds=0.5)
            self.skew_s = (moment + half - datetime.now(UTC)) / timedelta(seconds=1)

    async def _renew_client(self) -> None:
        with contextlib.suppress(TransportError):
            made = await self._make_client()
            if self._closed:
                self._discard(made)
                return
            client, self._client = self._client, made
            # Polls that SQS took before still come back on it.
            self._discard(client, retire=True)

    async def _make_client(self) -> Any:
        try:
            from aiobotocore.config import AioConfig
            from aiobotocore.session import get_session
        except ImportError as error:
            raise TransportError(
                f"SQS needs aiobotocore, which is not installed; {how_to_install('sqs')} brings it"
            ) from error
        config = AioConfig(
            max_pool_connections=CONNECTIONS_MAX,
            connect_timeout=self._connect_timeout_s,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS_MAX},
            tcp_keepalive=True,
            parameter_validation=False,
        )
        try:
            session = get_session()
            # What a service looks like takes 0.1 s to read; the credentials are each session's own.
            session.register_component("data_loader", _loader())
            making = session.create_client(
                "sqs", region_name=self._region, endpoint_url=self._endpoint, config=config
            )
            return await making.__aenter__()
        except Exception as error:
            raise TransportError(
                f"no client for {self.where}: {type(error).__name__}: {_first_line(str(error))}"
            ) from error

    def _discard(self, client: Any, *, retire: bool = False) -> None:
        if client is not None:
            task = asyncio.get_running_loop().create_task(self._close(client, retire=retire))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, client: Any, *, retire: bool) -> None:
        if retire:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETIRE_S):
                    await self._ended.wait()
        with contextlib.suppress(Exception):
            await client.__aexit__(None, None, None)


@functools.cache
def _loader() -> Any:
    from aiobotocore.session import get_session

    return get_session().get_component("data_loader")


def _fault(error: dict[str, Any]) -> tuple[str, str]:
    """The code and the text of an answer; some that sit before SQS answer in XML."""
    code, text = str(error.get("Code", "")), str(error.get("Message", ""))
    told = _XML_CODE.search(text)
    if told is not None:
        code = told[1]
        why = _XML_TEXT.search(text)
        text = why[1] if why is not None else ""
    return code.rpartition(".")[2], _first_line(text)


def _missing(queue: str, where: str) -> QueueMissing:
    return QueueMissing(f"there is no queue {queue} at {where}")


def _first_line(text: str) -> str:
    """What comes after it may show what was signed, and so a session's token."""
    return text.partition("\n")[0][:TEXT_MAX]
