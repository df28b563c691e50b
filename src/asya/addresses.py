"""Addresses of brokers: one URL says which broker, where it is, and how to talk to it.

    nats://host:4222,nats://other:4222    tls://token@host:4222
    amqp://user:password@host:5672/vhost?heartbeat=20s    amqps://…
    sqs://REGION?lease=30s    pubsub://PROJECT?endpoint=127.0.0.1:8085

`OPTIONS` has what may follow the `?`, per broker: checks, texts of errors and the table in the
docs are made from it. Pure: no broker's library, no connection, no environment. An address may
hold a password, so neither errors nor `repr` show its text; `Address.where` is for people.
Read by settings, manifests and everything that opens a transport.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from asya.document import quoted, unknown
from asya.durations import format_duration, parse_duration
from asya.errors import nearest

TRANSPORTS: Final = ("nats", "rabbitmq", "sqs", "pubsub")
"""The names that settings and manifests know brokers by."""
SCHEMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "nats": "nats",
        "tls": "nats",
        "amqp": "rabbitmq",
        "amqps": "rabbitmq",
        "sqs": "sqs",
        "pubsub": "pubsub",
    }
)
"""Which broker a scheme means."""
TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {"nats": "NATS", "rabbitmq": "RabbitMQ", "sqs": "Amazon SQS", "pubsub": "Google Pub/Sub"}
)
"""What the brokers are called in texts."""
EXAMPLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "nats": "nats://127.0.0.1:4222",
        "rabbitmq": "amqp://user:password@127.0.0.1:5672/vhost",
        "sqs": "sqs://eu-central-1",
        "pubsub": "pubsub://my-project",
    }
)
"""An address of each."""

_PORTS: Final = {"nats": 4222, "tls": 4222, "amqp": 5672, "amqps": 5671}
_MEANT: Final = {
    "rabbitmq": "amqp",
    "rabbit": "amqp",
    "rabbitmqs": "amqps",
    "jetstream": "nats",
    "aws": "sqs",
    "gcp": "pubsub",
    "gcppubsub": "pubsub",
}
_PLACE: Final = {
    "sqs": ("a region", re.compile(r"[a-z0-9][a-z0-9-]{0,62}")),
    "pubsub": ("a project", re.compile(r"[a-z0-9][a-z0-9.:_-]{0,98}")),
}
_HOST_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s\[\]:/@?#]+):[0-9]{1,5}")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})

Kind = Literal["text", "file", "url", "host:port", "duration", "flag", "number"]


@dataclass(frozen=True)
class Option:
    """Something that may be said behind the `?` of an address.

    Attributes:
        name: As it is written.
        kind: What a value looks like.
        default: What holds without it, as it would be written; empty for nothing.
        meaning: For the table in the docs, one sentence without its full stop.
        low: The least that a duration (in seconds) or a number may be.
        high: The most.
        choices: What a text may be, where it is one of a few.
    """

    name: str
    kind: Kind
    default: str
    meaning: str
    low: float = 0
    high: float = 365 * 86_400.0
    choices: tuple[str, ...] = ()


OPTIONS: Final[Mapping[str, tuple[Option, ...]]] = MappingProxyType(
    {
        "nats": (),
        "rabbitmq": (
            Option(
                "management",
                "url",
                "",
                "The management plugin's HTTP address, such as `http://127.0.0.1:15672`",
            ),
            Option(
                "heartbeat",
                "duration",
                "20s",
                "How often both sides send a heartbeat; a silent connection is closed after "
                "twice this",
                1,
                600,
            ),
            Option(
                "cafile", "file", "", "Certificates that `amqps://` trusts, instead of the system's"
            ),
        ),
        "sqs": (
            Option(
                "endpoint",
                "url",
                "",
                "Server to use instead of Amazon's, such as moto or ElasticMQ",
            ),
            Option(
                "lease",
                "duration",
                "30s",
                "Lease: how long a message belongs to a sidecar; extended at every third",
                1,
                43_200,
            ),
            Option("fair", "flag", "false", "Fair queues: the run of a root is a message group"),
            Option("fifo", "flag", "false", "FIFO queues, which keep order and know duplicates"),
            Option(
                "account", "text", "", "Number of the account whose queues they are, if not ours"
            ),
        ),
        "pubsub": (
            Option(
                "endpoint",
                "host:port",
                "",
                "Server to use instead of Google's, such as the emulator",
            ),
            Option(
                "lease",
                "duration",
                "60s",
                "Lease: how long a message belongs to a sidecar; extended at every third",
                10,
                600,
            ),
            Option(
                "keda",
                "text",
                "prometheus",
                "The KEDA scaler of its queues: KEDA's own for Pub/Sub is deprecated, the one for "
                "Prometheus asks Cloud Monitoring the same",
                choices=("prometheus", "gcp-pubsub"),
            ),
        ),
    }
)
"""What may follow the `?` of an address, by transport."""


@dataclass(frozen=True, repr=False)
class Address:
    """Where a broker is. Equal when the text is; `repr` tells no credentials.

    Attributes:
        transport: One of `TRANSPORTS`.
        url: As it was written, credentials included: for the broker's client, never for people.
        host: The (first) server's name, a region (SQS), or a project (Pub/Sub).
        port: The (first) server's, with the scheme's default; None for SQS and Pub/Sub.
        user: Decoded; None without one. For NATS a token stands here.
        password: Decoded; None without one.
        path: What stands behind the host, decoded, without the first `/`: RabbitMQ's vhost.
            Empty where nothing stands, which is the vhost `/`.
        options: As they were written, by name; every name is in `OPTIONS` and every value is
            of its kind. `seconds`, `flag`, `number` and `text` read them with their defaults.
        secure: Whether the scheme asks for TLS.
    """

    url: str
    transport: str = field(compare=False)
    host: str = field(compare=False)
    port: int | None = field(compare=False)
    user: str | None = field(compare=False)
    password: str | None = field(compare=False)
    path: str = field(compare=False)
    options: Mapping[str, str] = field(compare=False)
    secure: bool = field(compare=False)

    def __repr__(self) -> str:
        """Without credentials."""
        return f"<Address {self.transport} {self.where}>"

    @property
    def where(self) -> str:
        """The place for people, never with credentials: `host:port`, region or project."""
        if self.transport == "nats":
            return ",".join(_bare(part) for part in self.url.partition("?")[0].split(","))
        if self.transport == "rabbitmq":
            place = f"{_bracketed(self.host)}:{self.port}"
            return f"{place}/{self.path}" if self.path else place
        endpoint = self.options.get("endpoint")
        return f"{self.host} at {_bare(endpoint)}" if endpoint else self.host

    def text(self, name: str) -> str:
        """An option's value, or its default; empty for nothing."""
        return self.options.get(name, self._option(name).default)

    def seconds(self, name: str) -> float:
        """An option that is a duration."""
        return parse_duration(self.text(name))

    def flag(self, name: str) -> bool:
        """An option that is on or off."""
        return self.text(name).lower() in _TRUE

    def number(self, name: str) -> int:
        """An option that is a whole number."""
        return int(self.text(name))

    def _option(self, name: str) -> Option:
        return next(option for option in OPTIONS[self.transport] if option.name == name)


def parse_address(text: str) -> Address:
    """An address from its text.

    Raises:
        ValueError: Not an address; one line that says what was expected, with the nearest
            scheme or option. It never shows more of the text than scheme and option names.
    """
    scheme = _scheme(text)
    transport = SCHEMES[scheme]
    # several servers are NATS' alone: elsewhere a comma is part of a password or a path
    parts = text.split(",") if transport == "nats" else [text]
    servers = [_split(part.strip(), scheme) for part in parts]
    first, last = servers[0], servers[-1]
    if any(one.query for one in servers[:-1]):
        _refuse(transport, "options before the last server")
    host, port = _place(first, transport) if transport in _PLACE else _server(first)
    for other in servers[1:]:
        _server(other)
    return Address(
        url=text,
        transport=transport,
        host=host,
        port=port,
        user=None if first.username is None else unquote(first.username),
        password=None if first.password is None else unquote(first.password),
        path=_path(first, transport),
        options=MappingProxyType(_options(last.query, transport)),
        secure=first.scheme in {"tls", "amqps"},
    )


def _scheme(text: str) -> str:
    example = f"expected a broker's address such as {EXAMPLES['nats']}"
    if not isinstance(text, str) or not text.isprintable():
        raise ValueError(f"{example}, got something else")
    scheme, mark, _ = text.partition("://")
    # without the mark the text may be anything, a password included
    if not mark:
        raise ValueError(f"{example}, got a text without ://")
    found = scheme.strip().lower()
    if found not in SCHEMES:
        close = _MEANT.get(found) or nearest(found, SCHEMES)
        hint = f"did you mean {close}://?" if close else f"there are {_listed()}"
        got = f"{quoted(found[:20])}://…" if found.isalnum() else "another scheme"
        raise ValueError(f"{example}, got {got}; {hint}")
    return found


def _listed() -> str:
    return ", ".join(f"{scheme}://" for scheme in SCHEMES)


def _split(part: str, scheme: str) -> SplitResult:
    transport = SCHEMES[scheme]
    try:
        found = urlsplit(part if "://" in part else f"{scheme}://{part}")
    except ValueError:  # its text may show a password
        _refuse(
            transport, "brackets or characters that no URL has; in a password write them as %XX"
        )
    if SCHEMES.get(found.scheme) != transport:
        _refuse(transport, "servers of different brokers")
    if found.fragment or "#" in part:
        _refuse(transport, "a #; in a password write it as %23")
    return found


def _server(url: SplitResult) -> tuple[str, int]:
    transport = SCHEMES[url.scheme]
    try:
        host, port = url.hostname, url.port
    except ValueError:  # as above: what should be the port may be half of a password
        _refuse(
            transport, "a port that is none; in a password write / as %2F, ? as %3F and @ as %40"
        )
    if not host:
        _refuse(transport, "no host")
    if port == 0:
        _refuse(transport, "the port 0")
    return host, port or _PORTS[url.scheme]


def _place(url: SplitResult, transport: str) -> tuple[str, None]:
    noun, pattern = _PLACE[transport]
    if "@" in url.netloc:
        _refuse(transport, "credentials; they come from the provider's standard chain")
    if not pattern.fullmatch(url.netloc):
        _refuse(transport, f"no {noun.split()[1]}" if not url.netloc else f"what is not {noun}")
    return url.netloc, None


def _path(url: SplitResult, transport: str) -> str:
    path = unquote(url.path.removeprefix("/"))
    if path and transport != "rabbitmq":
        _refuse(transport, "a path")
    return "" if path == "/" else path


def _options(query: str, transport: str) -> dict[str, str]:
    known = {option.name: option for option in OPTIONS[transport]}
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        _refuse(transport, "options that are not name=value with & between them")
    found: dict[str, str] = {}
    for name, value in given:
        option = known.get(name)
        if option is None:
            none = "" if known else f"; {TITLES[transport]} has none"
            raise ValueError(unknown("option of the address", name, list(known)) + none)
        if name in found:
            raise ValueError(f"the address's option {name} is given twice")
        _check(option, value)
        found[name] = value
    return found


def _check(option: Option, value: str) -> None:
    """Raise `ValueError` unless the value is of the option's kind; never shows an URL."""
    name = f"the address's option {option.name}"
    try:
        _CHECKS.get(option.kind, _check_text)(option, value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_duration(option: Option, value: str) -> None:
    if not option.low <= parse_duration(value) <= option.high:
        low, high = format_duration(option.low), format_duration(option.high)
        raise ValueError(f"expected {low} to {high}, got {quoted(value)}")


def _check_number(option: Option, value: str) -> None:
    if not value.isdecimal() or not option.low <= int(value) <= option.high:
        raise ValueError(
            f"expected a number from {option.low:g} to {option.high:g}, got {quoted(value)}"
        )


def _check_flag(option: Option, value: str) -> None:
    if value.lower() not in _TRUE | _FALSE:
        raise ValueError(f"expected true or false, got {quoted(value)}")


def _check_host_port(option: Option, value: str) -> None:
    if not _HOST_PORT.fullmatch(value):
        raise ValueError("expected host:port")


def _check_url(option: Option, value: str) -> None:
    if not re.match(r"https?://[^/?#]*[^/?#@:]", value):
        raise ValueError("expected an address that starts with http:// or https://")


def _check_text(option: Option, value: str) -> None:
    if option.choices and value not in option.choices:
        raise ValueError(f"expected {' or '.join(option.choices)}, got {quoted(value[:20])}")
    if not value:
        raise ValueError("expected a non-empty string")


_CHECKS: Final = {
    "duration": _check_duration,
    "number": _check_number,
    "flag": _check_flag,
    "host:port": _check_host_port,
    "url": _check_url,
}


def _refuse(transport: str, got: str) -> NoReturn:
    raise ValueError(
        f"expected the address of {TITLES[transport]}, such as {EXAMPLES[transport]}, got {got}"
    )


def _bare(server: str) -> str:
    """`host:port` of an URL without its credentials."""
    rest = server.strip().rpartition("://")[2]
    return rest.partition("/")[0].rpartition("@")[2]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def options_markdown() -> str:
    """The table of all options, for the docs."""
    lines = ["| broker | option | value | default | meaning |", "|---|---|---|---|---|"]
    for transport, options in OPTIONS.items():
        for option in options:
            default = f"`{option.default}`" if option.default else ""
            bounds = ""
            if option.kind == "duration":
                bounds = f", {format_duration(option.low)} to {format_duration(option.high)}"
            elif option.kind == "number":
                bounds = f", {option.low:g} to {option.high:g}"
            if option.choices:
                bounds = f", {' or '.join(f'`{choice}`' for choice in option.choices)}"
            lines.append(
                f"| {TITLES[transport]} | `{option.name}` | {option.kind}{bounds} | {default} "
                f"| {option.meaning} |"
            )
    return "\n".join(lines) + "\n"
