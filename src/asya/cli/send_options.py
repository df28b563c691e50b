"""Delay and idempotency options of `send` and `call`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Literal

import typer

from asya.errors import UsageError

At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="Earliest start: 18:30, 2026-11-23T18:30 (local), or with an offset.",
    ),
]
Delay = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="How long to wait before the start, such as 10m."),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="KEY", help="Idempotency key; a repeated key returns the existing envelope."
    ),
]
KeyPolicy = Annotated[
    Literal["return-existing", "reject", "replace"] | None,
    typer.Option(
        help="What to do if another envelope holds the key; defaults to the flow's policy."
    ),
]
KeyLife = Annotated[
    str | None,
    typer.Option(
        metavar="LIFE", help="How long the envelope holds the key: 24h, or active (until it ends)."
    ),
]


@dataclass(frozen=True)
class Terms:
    """What holds for the payloads of one command, as the gateway takes it.

    Attributes:
        timeout: Time limit as text, or None.
        not_before: RFC 3339, or None.
        delay: A duration, or None.
        key: The idempotency key, or None.
        key_policy: Its policy, or None for the flow's.
        key_life: Its life, or None for the flow's.
    """

    timeout: str | None = None
    not_before: str | None = None
    delay: str | None = None
    key: str | None = None
    key_policy: str | None = None
    key_life: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        """Query of a flow, or fields of an envelope."""
        given = {"timeout": self.timeout, "not_before": self.not_before, "delay": self.delay}
        return {name: value for name, value in given.items() if value}

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers."""
        given = {
            "Idempotency-Key": None if self.key is None else _quoted(self.key),
            "Idempotency-Policy": self.key_policy,
            "Idempotency-Life": self.key_life,
        }
        return {name: value for name, value in given.items() if value}


def read_terms(
    timeout: str | None,
    at: str | None,
    delay: str | None,
    key: str | None = None,
    key_policy: str | None = None,
    key_life: str | None = None,
) -> Terms:
    """The options, checked as far as the gateway cannot.

    Raises:
        UsageError: Options that do not go together, or a time that cannot be read.
    """
    if at is not None and delay is not None:
        raise UsageError("--at and --delay cannot be combined; remove one")
    if key is None and (key_policy or key_life):
        raise UsageError("--key-policy and --key-life need --key")
    if key is not None and not (key and key.isascii() and key.isprintable()):
        raise UsageError(f"--key takes printable ASCII characters, got {key!r}")
    not_before = None if at is None else begin(at, datetime.now(UTC).astimezone())
    return Terms(timeout, not_before, delay, key, key_policy, key_life)


def begin(text: str, now: datetime) -> str:
    """The moment that a user wrote, in RFC 3339; without an offset it is local.

    Raises:
        UsageError: It is no time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = _clock_time(text, now)
    return (moment if moment.tzinfo is not None else moment.astimezone()).isoformat()


def _clock_time(text: str, now: datetime) -> datetime:
    try:
        moment = datetime.combine(now.date(), time.fromisoformat(text), now.tzinfo)
    except ValueError as error:
        raise UsageError(
            f"--at takes a time such as 18:30 or 2026-11-23T18:30, got {text!r}; "
            "for a duration there is --delay"
        ) from error
    return moment if moment > now else moment + timedelta(days=1)


def _quoted(key: str) -> str:
    """A structured string, as the header has it."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
