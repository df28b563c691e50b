"""What SQS answers and moto never does: batches that fail in part, throttling."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from tests.support.moto import CREDENTIALS, HOST, REGION

from asya.addresses import parse_address
from asya.errors import TransportUnavailable
from asya.testing.transport_contract import Mailbox
from asya.transports.sqs.transport import SqsTransport

QUEUE = "asya-kit-first"


async def connected(endpoint: str) -> SqsTransport:
    address = parse_address(f"sqs://{REGION}?endpoint={endpoint}")
    transport = SqsTransport(address, "kit", publish_timeout_s=10.0, poll_s=1.0)
    await transport.connect()
    return transport


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asya.transports.sqs" and record.levelno >= logging.WARNING
    ]


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


class HalfServer(BaseHTTPRequestHandler):
    """Answers as SQS does where a part of a batch fails, which moto never does."""

    answer: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        request = json.loads(self.rfile.read(length))
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        self.asked.append(operation)
        status, answer = 200, {"QueueUrl": "http://x/1/" + request.get("QueueName", "")}
        if operation in self.answer:
            status, answer = self.answer[operation]
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    HalfServer.answer = {}
    HalfServer.asked = []
    with ThreadingHTTPServer((HOST, 0), HalfServer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://{HOST}:{server.server_address[1]}"
        server.shutdown()


def failure(number: str, code: str, text: str, *, ours: bool) -> dict[str, Any]:
    return {"Id": number, "Code": code, "Message": text, "SenderFault": ours}


async def test_each_entry_of_a_batch_has_an_outcome_of_its_own(half: str) -> None:
    # given a batch that is confirmed in part
    failed = [
        failure("1", "InternalError", "try again", ours=False),
        failure("2", "InvalidMessageContents", "bad characters", ours=True),
        failure("3", "AWS.SimpleQueueService.NonExistentQueue", "gone", ours=True),
        failure("4", "RequestThrottled", "slow down", ours=True),
    ]
    well = {"Id": "0", "MessageId": "m", "MD5OfMessageBody": "x"}
    HalfServer.answer = {"SendMessageBatch": (200, {"Successful": [well], "Failed": failed})}
    transport = await connected(half)
    outcomes = await asyncio.gather(
        *(transport.publish(QUEUE, b"%d" % number) for number in range(6)), return_exceptions=True
    )
    kinds = [type(one).__name__ for one in outcomes]
    unavailable = "TransportUnavailable"
    assert kinds == ["Receipt", unavailable, "Refused", "QueueMissing", unavailable, unavailable]
    assert HalfServer.asked.count("SendMessageBatch") == 1
    await transport.close()


async def test_throttling_is_an_outage_of_no_connection(
    half: str, caplog: pytest.LogCaptureFixture
) -> None:
    fault = {"__type": "com.amazonaws.sqs#RequestThrottled", "message": "slow down"}
    HalfServer.answer = {"SendMessageBatch": (400, fault)}
    transport = await connected(half)
    for _ in range(3):
        with pytest.raises(TransportUnavailable, match=r"throttles: RequestThrottled|did not"):
            await transport.publish(QUEUE, b"1")
    (told,) = warnings(caplog)
    assert told.endswith("throttles (RequestThrottled); going on more slowly")
    assert transport.trouble is None
    await transport.close()


async def test_an_ack_that_is_not_taken_is_said_again(half: str) -> None:
    message = {
        "MessageId": "m", "ReceiptHandle": "r", "Body": "hello", "MD5OfBody": "x",
        "Attributes": {"ApproximateReceiveCount": "1"},
    }  # fmt: skip
    failed = [failure("0", "InternalError", "try again", ours=False)]
    HalfServer.answer = {
        "ReceiveMessage": (200, {"Messages": [message]}),
        "DeleteMessageBatch": (200, {"Successful": [], "Failed": failed}),
    }
    transport = await connected(half)
    box = Mailbox()
    consumer = await transport.consume(QUEUE, box)
    (delivery,) = await box.wait_for(1)
    consumer.set_window(0)
    delivery.ack()
    await until(lambda: HalfServer.asked.count("DeleteMessageBatch") >= 2)
    # and once it is, no more
    well = {"Successful": [{"Id": "0"}], "Failed": []}
    HalfServer.answer["DeleteMessageBatch"] = (200, well)
    await asyncio.wait_for(transport._acks[QUEUE].drained(), 30)
    await transport.close()


async def test_a_name_that_was_just_deleted_can_be_made_a_minute_later(half: str) -> None:
    fault = {"__type": "com.amazonaws.sqs#QueueDeletedRecently", "message": "wait 60 seconds"}
    HalfServer.answer = {"CreateQueue": (400, fault)}
    transport = await connected(half)
    with pytest.raises(TransportUnavailable, match=r"asya-kit-x-sump again before 60 s"):
        await transport.ensure(QUEUE)
    assert transport.trouble is None
    await transport.close()


async def test_what_was_signed_is_never_told(half: str, caplog: pytest.LogCaptureFixture) -> None:
    # given an answer that repeats what it was sent, a session's token included
    text = "The signature does not match.\n\nThe Canonical String was 'x-amz-security-token:s3cret'"
    fault = {"__type": "com.amazonaws.sqs#SignatureDoesNotMatch", "message": text}
    transport = await connected(half)
    HalfServer.answer = {"SendMessageBatch": (403, fault)}
    with pytest.raises(TransportUnavailable, match=r"The signature does not match.$"):
        await transport.publish(QUEUE, b"1")
    assert "s3cret" not in caplog.text + str(transport.trouble)
    await transport.close()
