"""What an SQS message looks like: text, attributes, delay, group. Pure.

SQS takes texts of XML's characters, and no empty ones. A body that is such a text travels as it
is, so that other tools can read it; any other is base64, with the attribute `asya-encoding`. A
time further away than the longest `DelaySeconds` travels as the attribute `asya-not-before`, and
whoever receives the message early sends it on. Called by `asya.transports.sqs.transport` and `sqs_take`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from asya.clock import seconds_until
from asya.envelope import ROOT_HEADER

REQUEST_MAX_BYTES: Final = 1024 * 1024
"""Of one message, and of all messages of a batch: texts and attributes together."""
BATCH_MAX: Final = 10
ATTRIBUTES_MAX_BYTES: Final = 1024
"""Room for our attributes, of which there are two."""
MESSAGE_MAX_BYTES: Final = (REQUEST_MAX_BYTES - ATTRIBUTES_MAX_BYTES) // 4 * 3
"""Of a body: a binary one is a third longer on the way, so this is what passes whatever is in it."""
HOP_S: Final = 900
"""The longest `DelaySeconds`."""

ENCODING: Final = "asya-encoding"
NOT_BEFORE: Final = "asya-not-before"
ATTRIBUTES: Final = [ENCODING, NOT_BEFORE]

_BASE64: Final = "base64"
_EMPTY: Final = "empty"
_NOTHING: Final = "-"
# A carriage return is legal, but XML's readers make a line feed of it; it is safer encoded.
_ILLEGAL: Final = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DEDUP_ID: Final = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
_NO_FLOW: Final = "-"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body as SQS takes it; `encoding` is None for plain text."""

    text: str
    encoding: str | None
    size: int

    def entry(
        self, *, not_before: datetime | None = None, delay_s: int = 0, **more: str
    ) -> dict[str, Any]:
        """The fields of a message, for `send_message_batch`; without its `Id`."""
        attributes = {}
        if self.encoding is not None:
            attributes[ENCODING] = {"DataType": "String", "StringValue": self.encoding}
        if not_before is not None:
            moment = str(_millis(not_before))
            attributes[NOT_BEFORE] = {"DataType": "Number", "StringValue": moment}
        entry: dict[str, Any] = {"MessageBody": self.text, **more}
        if attributes:
            entry["MessageAttributes"] = attributes
        if delay_s:
            entry["DelaySeconds"] = delay_s
        return entry

    @property
    def weight(self) -> int:
        """What it may count of a batch, in bytes, attributes included."""
        return self.size + ATTRIBUTES_MAX_BYTES // 4


def encode(body: bytes) -> Encoded:
    """A body as a text that SQS takes."""
    if not body:
        return Encoded(_NOTHING, _EMPTY, len(_NOTHING))
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text and _ILLEGAL.search(text) is None:
        return Encoded(text, None, len(body))
    text = base64.b64encode(body).decode("ascii")
    return Encoded(text, _BASE64, len(text))


def decode(text: str, encoding: str | None) -> bytes:
    """The body again. What cannot be decoded is given as it came, for whoever parses it."""
    if encoding == _EMPTY:
        return b""
    if encoding == _BASE64:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
    return text.encode()


def attribute(message: Mapping[str, Any], name: str) -> str | None:
    """The value of a received message's attribute."""
    found = message.get("MessageAttributes", {}).get(name)
    return None if found is None else found.get("StringValue")


def due(message: Mapping[str, Any]) -> datetime | None:
    """The time before which a received message must not be shown, if it carries one."""
    millis = attribute(message, NOT_BEFORE)
    if millis is None or not millis.isdecimal():
        return None
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(millis))
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def delay(not_before: datetime | None, now: datetime) -> tuple[int, datetime | None]:
    """The next `DelaySeconds`, and the time that must travel along because that is not enough.

    Whole seconds, rounded up: SQS knows no others, and a message must not come early.
    """
    left_s = 0.0 if not_before is None else seconds_until(not_before, now)
    if left_s <= 0:
        return 0, None
    if left_s <= HOP_S:
        return math.ceil(left_s), None
    return HOP_S, not_before


class _Flow(msgspec.Struct):
    id: str
    headers: dict[str, msgspec.Raw] = {}


_decode_flow = msgspec.json.Decoder(_Flow).decode


def group_of(body: bytes, dedup_id: str | None) -> str:
    """The message group: the envelope's root, so that a run of a flow is one group.

    A body that is no envelope belongs to the group of its `dedup_id` up to the first colon, and
    to one group of all without it.
    """
    try:
        flow = _decode_flow(body)
        raw = flow.headers.get(ROOT_HEADER)
        group = flow.id if raw is None else msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        group = (dedup_id or "").partition(":")[0]
    return _token(group) if group else _NO_FLOW


def dedup_token(dedup_id: str | None) -> str:
    """What SQS takes as a deduplication id; without one, one that no other message has."""
    return secrets.token_hex(16) if dedup_id is None else _token(dedup_id)


def _token(text: str) -> str:
    if _DEDUP_ID.fullmatch(text):
        return text
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _millis(moment: datetime) -> int:
    """The next full millisecond of Unix time."""
    return -((datetime.fromtimestamp(0, UTC) - moment) // timedelta(milliseconds=1))
