"""The mesh's settings: defaults, `asya.yaml`, `ASYA_*` variables, flags, in rising order.

One field of `Settings` is one setting: its type, unit, default, meaning and reason stand there
once; the file's key, the variable, the JSON Schema and the reference in the docs are made from
it. Read once, at the entry point, from mappings that are passed in; nothing else in the package
looks at the environment for settings. Imports no pydantic, since every command reads settings.

A setting `payload_max_bytes` is `payloadMax` in the file, `ASYA_PAYLOAD_MAX` as a variable and
`--payload-max` as a flag: units are part of the value (`4MiB`, `30s`), not of the name.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

from asya.addresses import EXAMPLES, SCHEMES, TITLES, TRANSPORTS, Address, parse_address
from asya.codes import Code
from asya.document import Problem, documents, quoted, shown, unknown
from asya.durations import DURATION_PATTERN, format_duration, parse_duration
from asya.envelope import NAME_MAX, NAME_PATTERN, is_actor_name
from asya.errors import Complaint, ManifestError, SettingsError, nearest

SETTINGS_FILE: Final = "asya.yaml"
PREFIX: Final = "ASYA_"
BLOB_SCHEMES: Final = ("s3", "gs")
LOG_FORMATS: Final = ("text", "json")
CAPTURES: Final = ("none", "errors", "sample", "all")
KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30

_SIZES: Final = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s?(B|KiB|MiB|GiB|kB|MB|GB)")
_WHOLE: Final = re.compile(r"[0-9]{1,18}")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


class Kind(NamedTuple):
    """How values of a setting are read, shown and described."""

    read: Callable[[Any], Any]
    show: Callable[[Any], Any]
    schema: dict[str, Any]


def parse_size(value: str | int) -> int:
    """Bytes of a size: `4MiB`, `500kB`, `1024B`, or a whole number of bytes.

    Raises:
        ValueError: Not a size.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        if _WHOLE.fullmatch(value):
            return int(value)
        match = _SIZE.fullmatch(value)
        if match and len(value) <= 32:
            return int(Fraction(match[1]) * _SIZES[match[2]])
    raise ValueError(f'expected a size such as "4MiB", or a number of bytes, got {shown(value)}')


def format_size(size: int) -> str:
    """The shortest text with a binary unit: `4194304` is `4MiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


def _between(low: float, high: float, parse: Callable[[Any], Any], show: Any) -> Any:
    def read(value: Any) -> Any:
        number = parse(value)
        if not low <= number <= high:
            got = shown(value) if isinstance(value, str) else show(number)
            raise ValueError(f"expected {show(low)} to {show(high)}, got {got}")
        return number

    return read


def _seconds(value: Any) -> float:
    # a number is what our own code passes as a flag; the file refuses it before this
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return parse_duration(value)


def _number(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    raise ValueError(f"expected a whole number, got {shown(value)}")


def _duration(low_s: float, high_s: float) -> Kind:
    read = _between(low_s, high_s, _seconds, format_duration)
    return Kind(read, format_duration, {"type": "string", "pattern": DURATION_PATTERN})


def _size(low: int, high: int) -> Kind:
    schema = {
        "anyOf": [
            {"type": "string", "pattern": rf"^({_SIZE.pattern}|[0-9]+)$"},
            {"type": "integer", "minimum": low, "maximum": high},
        ]
    }
    return Kind(_between(low, high, parse_size, format_size), format_size, schema)


def _whole(low: int, high: int) -> Kind:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Kind(_between(low, high, _number, int), int, schema)


def _read_flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise ValueError(f"expected true or false, got {shown(value)}")


def _read_text(value: Any) -> str:
    if isinstance(value, (str, Path)) and str(value) and "\0" not in str(value):
        return str(value)
    raise ValueError(f"expected a non-empty string, got {shown(value)}")


def _read_name(value: Any) -> str:
    text = _read_text(value)
    if not is_actor_name(text):
        raise ValueError(
            f'expected a name of a-z, 0-9 and "-", at most {NAME_MAX}, got {quoted(text)}'
        )
    return text


def _read_transport(value: Any) -> str:
    text = _read_text(value)
    if text not in TRANSPORTS:
        close = nearest(text, TRANSPORTS)
        hint = f"; did you mean {close!r}?" if close else ""
        raise ValueError(f"expected one of {', '.join(TRANSPORTS)}, got {quoted(text)}{hint}")
    return text


def _read_log_format(value: Any) -> str:
    text = _read_text(value)
    if text not in LOG_FORMATS:
        raise ValueError(f"expected {' or '.join(LOG_FORMATS)}, got {quoted(text)}")
    return text


def _read_capture(value: Any) -> str:
    text = _read_text(value)
    if text not in CAPTURES:
        raise ValueError(f"expected one of {', '.join(CAPTURES)}, got {quoted(text)}")
    return text


def _read_share(value: Any) -> float:
    """A share from 0 to 1, such as 0.01."""
    try:
        share = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"expected a number from 0 to 1, got {shown(value)}")
    return share


def _read_masks(value: Any) -> tuple[str, ...]:
    """Paths: a list in the file, with commas between them elsewhere."""
    given = value
    if isinstance(value, str):
        given = value.split(",") if value else ()
    if not isinstance(given, (list, tuple)):
        raise ValueError(  # noqa: TRY004  as of all settings that cannot be used
            f'expected paths such as ".user.password", got {shown(value)}'
        )
    masks = tuple(_read_text(each).strip() for each in given)
    for each in masks:
        if not each.startswith((".", "[")) or each == ".":
            raise ValueError(f'expected a path such as ".user.password", got {quoted(each)}')
    return masks


def _url(*transports: str) -> Kind:
    """An address of one of these brokers. Its text is never shown: it may hold a password."""

    def read(value: Any) -> str:
        found = parse_address(_read_text(value))
        if found.transport not in transports:
            title, example = TITLES[transports[0]], EXAMPLES[transports[0]]
            raise ValueError(
                f"expected the address of {title}, such as {example}, "
                f"got one of {TITLES[found.transport]}"
            )
        return found.url

    schemes = "|".join(scheme for scheme, name in SCHEMES.items() if name in transports)
    return Kind(read, str, {"type": "string", "pattern": f"^({schemes})://"})


def _read_blob_store(value: Any) -> Path | str:
    text = _read_text(value)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(text)
    if scheme not in BLOB_SCHEMES or not rest.split("?")[0].strip("/"):
        raise ValueError(
            f"expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, got {scheme}://…"
        )
    return text


_TEXT: Final = {"type": "string", "minLength": 1}
_BLOB_STORE: Final = Kind(_read_blob_store, str, _TEXT)
_PATH: Final = Kind(lambda value: Path(_read_text(value)), str, _TEXT)
_FLAG: Final = Kind(_read_flag, bool, {"type": "boolean"})
_NAME: Final = Kind(
    _read_name, str, {"type": "string", "pattern": NAME_PATTERN, "maxLength": NAME_MAX}
)
_HOST: Final = Kind(_read_text, str, _TEXT)
_TRANSPORT: Final = Kind(_read_transport, str, {"type": "string", "enum": list(TRANSPORTS)})
_URL: Final = _url(*TRANSPORTS)
_URLS: Final = {name: _url(name) for name in TRANSPORTS}
_CAPTURE: Final = Kind(_read_capture, str, {"type": "string", "enum": list(CAPTURES)})
_SHARE: Final = Kind(_read_share, float, {"type": "number", "minimum": 0, "maximum": 1})
_MASKS: Final = Kind(
    _read_masks,
    ",".join,
    {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT}]},
)
_LOG_FORMAT: Final = Kind(_read_log_format, str, {"type": "string", "enum": list(LOG_FORMATS)})

DAY_S: Final = 86_400.0
YEAR_S: Final = 365 * DAY_S
BLOBS_KEPT_MIN_S: Final = 14 * DAY_S


def _setting(default: Any, kind: Kind, meaning: str, reason: str) -> Any:
    metadata = {"kind": kind, "meaning": meaning, "reason": reason}
    shown = kind not in (_URL, *_URLS.values())  # addresses may hold passwords
    return field(default=default, metadata=metadata, repr=shown)


def _broker(transport: str) -> Any:
    return _setting(
        None,
        _URLS[transport],
        f"Address of {TITLES[transport]} for actors whose `spec.transport` is `{transport}`, such "
        f"as `{EXAMPLES[transport]}`; `transportUrl` goes before it",
        "`asya up` starts a server"
        if transport == "nats"
        else "Needed only if an actor uses this broker",
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for a whole mesh. Attribute names carry the unit: `_s` seconds, `_bytes`."""

    namespace: str = _setting(
        "default",
        _NAME,
        "Namespace of manifests that don't set one; part of every queue's name",
        "One mesh on one machine needs no other",
    )
    transport: str = _setting(
        "nats",
        _TRANSPORT,
        "Broker of `x-sink`, `x-sump`, and actors that don't set one; one of "
        + ", ".join(f"`{name}`" for name in TRANSPORTS)
        + ". If `transportUrl` is set, its scheme decides",
        "The broker that `asya up` starts",
    )
    transport_url: str | None = _setting(
        None,
        _URL,
        "Address of an existing default broker. Without it `asya up` starts a NATS server. The "
        "flag also accepts a broker's name if another setting has its address",
        "You don't need to install or start anything first",
    )
    nats_url: str | None = _broker("nats")
    rabbitmq_url: str | None = _broker("rabbitmq")
    sqs_url: str | None = _broker("sqs")
    pubsub_url: str | None = _broker("pubsub")
    data: Path = _setting(  # noqa: RUF009  a path is as immutable as the rest
        Path(".asya"),
        _PATH,
        "Folder for the broker's files, the task store and the logs. In the file it is relative "
        "to the project's folder, elsewhere to the working folder",
        "Hidden, in the project, and easy to delete",
    )
    host: str = _setting(
        "127.0.0.1",
        _HOST,
        "Address that the gateway listens on; other addresses than loopback need `insecure`",
        "There is no authentication yet, so only this machine may reach it",
    )
    port: int = _setting(
        8080, _whole(0, 65535), "Port of the gateway; 0 chooses a free one", "The usual port"
    )
    insecure: bool = _setting(
        False,
        _FLAG,
        "Allows a `host` that others can reach without authentication",
        "Safe by default",
    )
    cooldown_s: float = _setting(
        10.0,
        _duration(0, YEAR_S),
        "Longest time without work before an actor's last replicas end; limits `cooldownPeriod`",
        "A laptop needs its memory back sooner than a cluster",
    )
    template_idle_s: float = _setting(
        600.0,
        _duration(0, YEAR_S),
        "How long an actor's template stays without a replica; `0s` turns templates off",
        "A template uses memory, which pays off only while the actor is in use",
    )
    grace_s: float = _setting(
        30.0,
        _duration(0, DAY_S),
        "How long running handlers may take to finish at shutdown; other messages go back to "
        "their queues",
        "The default of Kubernetes",
    )
    payload_max_bytes: int = _setting(
        64 * MIB,
        _size(KIB, 224 * MIB),
        "Largest payload",
        "A handler holds several copies in memory; a frame has at most 256 MiB",
    )
    blob_store: Path | str | None = _setting(  # noqa: RUF009  a path is as immutable as the rest
        None,
        _BLOB_STORE,
        "Where payloads over `blobThreshold` go: a folder, `s3://BUCKET/PREFIX` or "
        "`gs://BUCKET/PREFIX`. The default is the folder `blobs` in `data`",
        "You don't need to install or start anything first",
    )
    blob_threshold_bytes: int = _setting(
        256 * KIB,
        _size(4 * KIB, 7 * MIB),
        "Larger payloads go to the blob store, and messages refer to them",
        "Brokers are built for small messages and accept at most 8 MiB; small payloads are "
        "faster in the message",
    )
    blob_retention_s: float | None = _setting(
        None,
        _duration(3600, 100 * YEAR_S),
        "How long a blob is kept after its last use; must exceed `retention` and every wait "
        "between two attempts. The default is twice `retention`, at least 14 days",
        "Waiting envelopes need their payloads, and results live as long as tasks",
    )
    retention_s: float = _setting(
        7 * DAY_S,
        _duration(60, 100 * YEAR_S),
        "How long the task store keeps ended envelopes",
        "You can look back a week",
    )
    log_max_bytes: int = _setting(
        10 * MIB,
        _size(64 * KIB, 10 * GIB),
        "Size at which an actor's log starts a new file; the previous file is kept",
        "A handler that prints a lot must not fill the disk",
    )
    log_format: str = _setting(
        "text",
        _LOG_FORMAT,
        "Format of log lines: `text`, or `json` for one object per line",
        "Easy for people to read",
    )
    capture: str = _setting(
        "all",
        _CAPTURE,
        "Which payloads of hops are kept for `asya trace`: `none`, those of failed attempts "
        "(`errors`), those of some envelopes (`sample`), or `all`. An actor's `spec.capture` "
        "overrides this",
        "A laptop has one user, who wants to see all payloads",
    )
    capture_max_bytes: int = _setting(
        64 * KIB,
        _size(0, 4 * MIB),
        "How much of each payload is kept; the rest is cut off",
        "Enough to recognise a payload",
    )
    capture_sample: float = _setting(
        0.01, _SHARE, "Share of the envelopes that `sample` keeps, from 0 to 1", "One in a hundred"
    )
    capture_mask: tuple[str, ...] = _setting(
        (),
        _MASKS,
        "Paths in payloads whose values are never kept, such as `.user.password`; `[:]` means "
        "every item of a list. Separate paths with commas, or write a list in the file",
        "Only you know what is secret",
    )
    capture_count: int = _setting(
        10_000,
        _whole(0, 10_000_000),
        "How many payloads are kept; the oldest are removed first",
        "Together with `captureMax` this limits the disk space to 640 MiB",
    )
    capture_age_s: float = _setting(
        DAY_S,
        _duration(60, YEAR_S),
        "How long a payload is kept",
        "Older payloads are rarely needed",
    )
    metrics_port: int | None = _setting(
        None,
        _whole(0, 65535),
        "An additional port for `/metrics`; 0 chooses a free one",
        "The gateway serves `/metrics`, too",
    )
    body_max_bytes: int = _setting(
        65 * MIB,
        _size(KIB, 256 * MIB),
        "Largest HTTP request body; must exceed `payloadMax`",
        "A payload plus its route and headers",
    )
    streams_max: int = _setting(
        1000, _whole(1, 100_000), "Event streams open at a time", "Each stream holds a connection"
    )
    queue_max: int = _setting(
        100_000,
        _whole(1, 10**9),
        "How many envelopes may wait in a flow's first queue before the gateway answers 429",
        "It is better to refuse clients early than to serve them late",
    )
    nats_server: Path | None = _setting(  # noqa: RUF009  as above
        None,
        _PATH,
        "The nats-server program. The default is the program from `asya[local]`, or the one on "
        "the PATH",
        "The package includes it",
    )
    lease_s: float = _setting(
        10.0,
        _duration(1, 3600),
        "How long a NATS message belongs to a sidecar that does not extend its lease; sidecars "
        "extend it at every third. For Amazon SQS and Google Pub/Sub, use the option `lease` of "
        "the address",
        "After a crash the messages of that process are delivered again after this time",
    )

    @property
    def blobs_kept_s(self) -> float:
        """`blob_retention_s`, or what holds without it."""
        return self.blob_retention_s or max(2 * self.retention_s, BLOBS_KEPT_MIN_S)

    def address_of(self, transport: str) -> Address | None:
        """Where a broker is; None: there is no address, which for `nats` means the embedded one."""
        main = parse_address(self.transport_url) if self.transport_url else None
        if main is not None and main.transport == transport:
            return main
        own: str | None = getattr(self, f"{transport}_url")
        return parse_address(own) if own else None


class _Name(NamedTuple):
    """A setting's names outside of Python."""

    key: str
    variable: str
    flag: str


def _outside(attribute: str) -> _Name:
    if attribute == "transport_url":
        return _Name("transportUrl", PREFIX + "TRANSPORT_URL", "--transport")
    if attribute == "transport":
        return _Name("transport", PREFIX + "TRANSPORT", "--transport")
    short = re.sub(r"_(s|bytes)$", "", attribute)
    head, *tail = short.split("_")
    key = head + "".join(part.capitalize() for part in tail)
    return _Name(key, PREFIX + short.upper(), "--" + short.replace("_", "-"))


_FIELDS: Final = {item.name: item for item in fields(Settings)}
NAMES: Final = {name: _outside(name) for name in _FIELDS}
"""Key, variable and flag of each setting, by its attribute."""
_BY_KEY: Final = {names.key: attribute for attribute, names in NAMES.items()}
_BY_VARIABLE: Final = {names.variable: attribute for attribute, names in NAMES.items()}
OTHER_VARIABLES: Final = frozenset(
    PREFIX + name for name in ("URL", "SOCKET", "HANDLER", "ACTOR", "CONCURRENCY", "TOKEN", "PATH")
)
"""Variables of other parts; not settings, and not mistaken for a mistyped one."""


def environment() -> Mapping[str, str]:
    """The process's environment; entry points take it from here and pass it on."""
    return os.environ


def read(folder: Path, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """The settings of a project: flag over variable over file over default.

    Args:
        folder: The project's folder; `asya.yaml` in it is read where there is one.
        environ: The environment (`environment()` at entry points). An empty variable counts as not set.
        flags: By attribute of `Settings`; None counts as not given. Values are texts as they were
            typed, or of the attribute's type.

    Raises:
        SettingsError: With every value that cannot be used, one line each, naming file and line,
            variable or flag.
        ManifestError: `asya.yaml` is no YAML, or has keys or values that cannot be used.
    """
    values, sources = _from_file(folder)
    ranks = dict.fromkeys(values, 0)
    problems: list[str] = []
    given = [
        (NAMES[_BY_VARIABLE[v]].variable, _BY_VARIABLE[v], environ[v], 1)
        for v in sorted(environ)
        if v in _BY_VARIABLE and environ[v]
    ]
    problems += _mistyped(environ)
    for attribute, value in flags.items():
        if attribute not in NAMES:
            text = unknown("setting", attribute, list(NAMES))
            problems.append(Complaint(text, Code.SETTING_UNKNOWN))
        elif value is not None:
            named = attribute == "transport_url" and value in TRANSPORTS
            given.append((NAMES[attribute].flag, "transport" if named else attribute, value, 2))
    for source, attribute, value, rank in given:
        try:
            values[attribute] = _value(attribute, value)
            sources[attribute], ranks[attribute] = source, rank
        except ValueError as error:
            problems.append(f"{source}: {error}")
    problems += _default_broker(values, sources, ranks)
    if not problems:
        settings = Settings(**({"data": folder / Settings.data} | values))
        problems = [
            Complaint(
                f"{sources.get(attribute, NAMES[attribute].key)}: {text}", Code.SETTINGS_CONTRADICT
            )
            for attribute, text in _together(settings)
        ]
    if problems:
        raise SettingsError(*problems)
    return settings


def _default_broker(
    values: dict[str, Any], sources: Mapping[str, str], ranks: Mapping[str, int]
) -> Iterator[Complaint]:
    """Let the scheme of the address say the broker, unless a higher source names another."""
    named, url = values.get("transport"), values.get("transport_url")
    if url is not None:
        says = parse_address(url).transport
        if named is None or ranks["transport_url"] > ranks["transport"]:
            named = values["transport"] = says
        if named != says and ranks["transport_url"] == ranks["transport"]:
            text = f"{named} contradicts {NAMES['transport_url'].key}, an address of {TITLES[says]}"
            yield Complaint(f"{sources['transport']}: {text}", Code.SETTINGS_CONTRADICT)
            return
    if named in {None, "nats"} or values.get(f"{named}_url"):
        return
    if url is None or parse_address(url).transport != named:
        yield Complaint(f"{sources['transport']}: {no_address(named)}", Code.ADDRESS_MISSING)


def no_address(transport: str) -> str:
    """`rabbitmq has no address; …` with the remedy."""
    names = NAMES[f"{transport}_url"]
    return (
        f"{transport} has no address; set {names.key} ({names.variable}, {names.flag}), such as "
        f"{EXAMPLES[transport]}"
    )


def _value(attribute: str, value: Any) -> Any:
    return _FIELDS[attribute].metadata["kind"].read(value)


def _mistyped(environ: Mapping[str, str]) -> Iterator[Complaint]:
    """Variables that are close to a setting's. Others may be anybody's, and are left alone."""
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        if variable not in _BY_VARIABLE:
            known = {name.removeprefix(PREFIX): name for name in _BY_VARIABLE}
            close = nearest(variable.removeprefix(PREFIX), known)
            if close:
                text = f"{variable}: unknown variable; did you mean {known[close]}?"
                yield Complaint(text, Code.SETTING_UNKNOWN)


def _from_file(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of `asya.yaml` by attribute, and where each stands."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}, {}
    found, problems = documents(path)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for document in found[1:]:
        text = "expected one document"
        problems.append(Problem(document.file, document.line, (), text, Code.SETTINGS))
    for document in found[:1]:
        data = document.read()
        problems += document.problems
        if not isinstance(data, dict):
            text = f"expected a mapping, got {shown(data)}"
            problems.append(document.problem((), text, code=Code.SETTINGS))
            continue
        for key, value in data.items():
            attribute = _BY_KEY.get(key)
            if attribute is None:
                text = unknown("setting", key, list(_BY_KEY))
                problem = document.problem((key,), text, key=True, code=Code.SETTING_UNKNOWN)
                problems.append(problem)
                continue
            try:
                values[attribute] = _from_yaml(attribute, value, folder)
            except ValueError as error:
                problems.append(document.problem((key,), str(error), code=Code.SETTINGS))
            sources[attribute] = f"{document.file}:{document.line_of((key,))}: {key}"
    if problems:
        problems.sort(key=lambda problem: problem.line)
        raise ManifestError(map(Problem.complaint, problems))
    return values, sources


def _from_yaml(attribute: str, value: Any, folder: Path) -> Any:
    """As strict as manifests are: a number is not a text, and a duration has a unit."""
    kind: Kind = _FIELDS[attribute].metadata["kind"]
    types = {kind.schema.get("type")} | {c["type"] for c in kind.schema.get("anyOf", ())}
    if "pattern" in kind.schema and kind.show is format_duration and not isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, str) and "string" not in types:
        noun = "true or false" if "boolean" in types else "a whole number"
        raise ValueError(f"expected {noun}, got {shown(value)}")
    read_value = kind.read(value)
    return folder / read_value if isinstance(read_value, Path) else read_value


def _together(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is wrong between settings: the attribute, and the text."""
    payload, body = settings.payload_max_bytes, settings.body_max_bytes
    if body <= payload:
        text = f"expected more than payloadMax ({format_size(payload)}), got {format_size(body)}"
        yield "body_max_bytes", text
    if settings.blobs_kept_s <= settings.retention_s:
        least, got = format_duration(settings.retention_s), settings.blobs_kept_s
        text = f"expected more than retention ({least}), got {format_duration(got)}"
        yield "blob_retention_s", f"{text}: results would be removed before their envelopes"
    if not settings.insecure and not is_loopback(settings.host):
        text = f"{quoted(settings.host)} can be reached by other machines, and there is no authentication yet"
        remedy = "use 127.0.0.1, or allow it with --insecure (insecure: true, ASYA_INSECURE=true)"
        yield "host", f"{text}; {remedy}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `asya.yaml`."""
    properties = {}
    for attribute, item in _FIELDS.items():
        kind: Kind = item.metadata["kind"]
        default = None if item.default is None else kind.show(item.default)
        entry = kind.schema | {"description": f"{item.metadata['meaning']}"}
        properties[NAMES[attribute].key] = entry | ({} if default is None else {"default": default})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings",
        "description": "Mesh-wide settings, the file `asya.yaml` in the project's folder.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _shown_default(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Flag(NamedTuple):
    """A setting as an option of a command.

    Attributes:
        attribute: Of `Settings`.
        flag: As it is typed: `--payload-max`.
        metavar: What follows it; empty for one that is on or off.
        text: Its meaning and default, one sentence each.
    """

    attribute: str
    flag: str
    metavar: str
    text: str


_METAVARS: Final = {
    id(_PATH): "PATH",
    id(_FLAG): "",
    id(_NAME): "NAME",
    **{id(kind): "URL" for kind in (_URL, *_URLS.values())},
}


def flags() -> Iterator[Flag]:
    """Every setting that has a flag of its own, in the order of `Settings`."""
    for attribute, item in _FIELDS.items():
        if attribute == "transport":
            continue  # the scheme of `--transport URL` says it
        kind: Kind = item.metadata["kind"]
        by_show = {format_duration: "DURATION", format_size: "SIZE", int: "N"}
        metavar = _METAVARS.get(id(kind), by_show.get(kind.show, "TEXT"))
        default = "" if item.default is None else _shown_default(kind.show(item.default))
        text = f"{item.metadata['meaning']}." + (f" Default: {default}." if default else "")
        yield Flag(attribute, NAMES[attribute].flag, metavar, text.replace("`", ""))


def reference_markdown() -> str:
    """The table of all settings, for the docs."""
    lines = [
        "| `asya.yaml` | variable | flag | default | meaning | why this default |",
        "|---|---|---|---|---|---|",
    ]
    for attribute, item in _FIELDS.items():
        kind: Kind = item.metadata["kind"]
        names = NAMES[attribute]
        default = "" if item.default is None else f"`{_shown_default(kind.show(item.default))}`"
        meaning, reason = item.metadata["meaning"], item.metadata["reason"]
        lines.append(
            f"| `{names.key}` | `{names.variable}` | `{names.flag}` | {default} | {meaning} "
            f"| {reason} |"
        )
    return "\n".join(lines) + "\n"
