"""What SQS messages and queues look like: pure."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.addresses import parse_address
from asya.envelope import Envelope, Route, raw_json
from asya.envelope import encode as encode_envelope
from asya.transports.sqs import messages, queues
from asya.transports.sqs.transport import SqsTransport

NOW = datetime(2026, 11, 23, 18, 0, 0, 250_000, UTC)


@given(st.binary(max_size=300))
def test_any_body_comes_back_from_a_text_that_sqs_takes(body: bytes) -> None:
    encoded = messages.encode(body)
    assert encoded.text
    assert messages._ILLEGAL.search(encoded.text) is None
    assert encoded.size == len(encoded.text.encode())
    assert messages.decode(encoded.text, encoded.encoding) == body


@pytest.mark.parametrize("text", ['{"a": "ünï ☃ 🚀"}', "tab\tline\n", "\ud7ff\ue000\ufffd"])
def test_legal_text_travels_as_it_is(text: str) -> None:
    assert messages.encode(text.encode()) == messages.Encoded(text, None, len(text.encode()))


@pytest.mark.parametrize("body", [b"\x00", b"\x0b", b"a\r\n", "\ufffe".encode(), b"\xff", b"\x1f"])
def test_anything_else_is_base64(body: bytes) -> None:
    encoded = messages.encode(body)
    assert (encoded.text, encoded.encoding) == (base64.b64encode(body).decode(), "base64")
    attributes = encoded.entry()["MessageAttributes"]
    assert attributes == {"asya-encoding": {"DataType": "String", "StringValue": "base64"}}


def test_what_cannot_be_decoded_is_given_as_it_came() -> None:
    assert messages.decode("no base64!", "base64") == b"no base64!"
    assert messages.decode("plain", "of-the-future") == b"plain"


def test_the_limit_holds_for_the_worst_body() -> None:
    worst = messages.encode(b"\xff" * messages.MESSAGE_MAX_BYTES)
    assert worst.size + messages.ATTRIBUTES_MAX_BYTES <= messages.REQUEST_MAX_BYTES
    entry = worst.entry(not_before=NOW)
    attributes = sum(
        len(name) + len(value["DataType"]) + len(value["StringValue"])
        for name, value in entry["MessageAttributes"].items()
    )
    assert worst.size + attributes <= worst.weight <= messages.REQUEST_MAX_BYTES


@pytest.mark.parametrize(
    ("left_s", "delay_s", "travels"),
    [
        (-5, 0, False),
        (0, 0, False),
        (0.001, 1, False),
        (0.5, 1, False),
        (1, 1, False),
        (899.2, 900, False),
        (900, 900, False),
        (900.001, 900, True),
        (86_400 * 400, 900, True),
    ],
)
def test_delays_are_whole_seconds_rounded_up_in_hops(
    left_s: float, delay_s: int, travels: bool
) -> None:
    moment = NOW + timedelta(seconds=left_s)
    assert messages.delay(moment, NOW) == (delay_s, moment if travels else None)


def test_no_time_is_no_delay() -> None:
    assert messages.delay(None, NOW) == (0, None)


@given(st.floats(0, 4000), st.floats(0, 0.9))
def test_hops_end_at_the_time_and_never_before(left_s: float, late_s: float) -> None:
    # given hops that each take a little longer than they should
    moment, now, hops = NOW + timedelta(seconds=left_s), NOW, 0
    while True:
        delay_s, later = messages.delay(moment, now)
        now += timedelta(seconds=delay_s + late_s)
        if later is None:
            break
        hops += 1
    # then the message is shown at its time, at most a second and the last hop's delay late
    assert moment <= now < moment + timedelta(seconds=2)
    assert hops <= left_s / 900


def test_the_time_that_travels_is_no_earlier_than_the_one_given() -> None:
    moment = NOW + timedelta(microseconds=1)
    entry = messages.encode(b"x").entry(not_before=moment, delay_s=900)
    assert entry["DelaySeconds"] == 900
    received = {"Body": "x", "MessageAttributes": entry["MessageAttributes"]}
    found = messages.due(received)
    assert found is not None
    assert moment <= found <= moment + timedelta(milliseconds=1)


@pytest.mark.parametrize("value", ["soon", "-1", "", "1e9"])
def test_a_time_that_is_none_is_no_time(value: str) -> None:
    stated = {"asya-not-before": {"DataType": "String", "StringValue": value}}
    assert messages.due({"MessageAttributes": stated}) is None


def test_a_time_past_all_calendars_is_the_last_of_ours() -> None:
    stated = {"asya-not-before": {"DataType": "Number", "StringValue": "9" * 30}}
    found = messages.due({"MessageAttributes": stated})
    assert found is not None
    assert found.year == 9999


def test_the_group_is_the_run_of_a_flow() -> None:
    # given a root, and a child of its fan-out with a child of its own
    root = Envelope("root-1", Route([], "a", ["b"]), payload=raw_json({}))
    child = Envelope("child-1", Route(["a"], "b", []), payload=raw_json({}), parent_id="root-1")
    child.headers["x-asya-root"] = raw_json("root-1")
    # then they are one group
    groups = {messages.group_of(encode_envelope(one), f"{one.id}:1:0") for one in (root, child)}
    assert groups == {"root-1"}


def test_the_group_of_what_is_no_envelope() -> None:
    assert messages.group_of(b"\xff", "id-7:2:0") == "id-7"
    assert messages.group_of(b"[1]", None) == messages.group_of(b"other", None) == "-"
    odd = messages.group_of(b'{"id": "with space"}', None)
    assert len(odd) == 64
    assert odd != messages.group_of(b'{"id": "with another"}', None)


def test_deduplication_ids_are_what_sqs_takes() -> None:
    assert messages.dedup_token("0f8e:3:1") == "0f8e:3:1"
    assert len(messages.dedup_token("x" * 129)) == 64
    assert messages.dedup_token(None) != messages.dedup_token(None)


@pytest.mark.parametrize(
    ("queue", "fifo", "fits"),
    [
        ("asya-ns-actor_1", False, True),
        ("a" * 80, False, True),
        ("a" * 81, False, False),
        ("a" * 75, True, True),
        ("a" * 76, True, False),
        ("with.dot", False, False),
        ("", False, False),
        ("with space", False, False),
    ],
)
def test_names(queue: str, fifo: bool, fits: bool) -> None:
    why = queues.unfit(queue, fifo=fifo)
    assert (why is None) == fits
    assert why is None or queue in why


def test_names_at_the_broker_and_back() -> None:
    assert queues.broker_name("asya-a-b", fifo=True) == "asya-a-b.fifo"
    assert queues.our_name("asya-a-b.fifo", fifo=True) == "asya-a-b"
    assert queues.our_name("asya-a-b.fifo", fifo=False) is None
    assert queues.our_name("asya-a-b", fifo=True) is None


def test_a_queue_as_we_make_it_differs_in_nothing() -> None:
    for fifo in (False, True):
        arn = "arn:aws:sqs:eu-west-1:1:asya-a-x-sump" + (".fifo" if fifo else "")
        made = queues.attributes(fifo=fifo, dead_letters_arn=arn)
        assert json.loads(made["RedrivePolicy"])["maxReceiveCount"] >= 20
        sump = arn.rpartition(":")[2]
        assert queues.differences(made, fifo=fifo, sump=sump) == []
    made = queues.attributes(fifo=False, dead_letters_arn=None)
    assert "RedrivePolicy" not in made
    assert queues.differences(made, fifo=False, sump=None) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"MaximumMessageSize": "262144"}, "MaximumMessageSize is 262144, not 1048576"),
        ({"MessageRetentionPeriod": "345600"}, "what waits longer than 345600 s is lost"),
        ({"DelaySeconds": "5"}, "DelaySeconds is 5, not 0"),
        ({"RedrivePolicy": ""}, "there is no RedrivePolicy to sump"),
        (
            {"RedrivePolicy": '{"deadLetterTargetArn": "arn:x:other", "maxReceiveCount": 100}'},
            "target is other, not sump",
        ),
        (
            {"RedrivePolicy": '{"deadLetterTargetArn": "arn:x:sump", "maxReceiveCount": "5"}'},
            "maxReceiveCount is 5, not 100",
        ),
    ],
)
def test_each_difference_is_told_with_what_it_means(change: dict[str, Any], told: str) -> None:
    made = queues.attributes(fifo=False, dead_letters_arn="arn:aws:sqs:r:1:sump")
    (text,) = queues.differences(made | change, fifo=False, sump="sump")
    assert told in text


def test_the_trigger_is_as_keda_reads_it() -> None:
    transport = SqsTransport(parse_address("sqs://eu-west-1"), "prod")
    assert transport.trigger("asya-prod-a", 5) == {
        "type": "aws-sqs-queue",
        "metadata": {
            "queueURL": "asya-prod-a",
            "awsRegion": "eu-west-1",
            "queueLength": "5",
            "activationQueueLength": "0",
            "scaleOnInFlight": "true",
            "scaleOnDelayed": "false",
        },
    }


@pytest.mark.parametrize(
    ("address", "url", "endpoint"),
    [
        ("sqs://eu-west-1?account=12", "https://sqs.eu-west-1.amazonaws.com/12/q", None),
        ("sqs://cn-north-1?account=12", "https://sqs.cn-north-1.amazonaws.com.cn/12/q", None),
        ("sqs://eu-west-1?fifo=true", "q.fifo", None),
        ("sqs://eu-west-1?endpoint=http://moto:5000", "q", "http://moto:5000"),
        (
            "sqs://eu-west-1?endpoint=http://moto:5000/&account=12",
            "http://moto:5000/12/q",
            "http://moto:5000/",
        ),
    ],
)
def test_the_trigger_of_other_addresses(address: str, url: str, endpoint: str | None) -> None:
    found = SqsTransport(parse_address(address), "prod").trigger("q", 1)["metadata"]
    assert found["queueURL"] == url
    assert found.get("awsEndpoint") == endpoint
    assert all(isinstance(value, str) for value in found.values())


def test_capabilities_follow_the_address() -> None:
    plain = SqsTransport(parse_address("sqs://eu-west-1?lease=1500ms"), "prod").capabilities
    assert (plain.lease_s, plain.deduplicates, plain.delay_max_s) == (2.0, False, None)
    fifo = SqsTransport(parse_address("sqs://eu-west-1?fifo=true"), "prod").capabilities
    assert (fifo.deduplicates, fifo.dedup_window_s, fifo.delay_max_s) == (True, 300.0, 0.0)
