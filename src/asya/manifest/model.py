"""AsyncActor and Flow: the one definition of the user's YAML.

A field stands here once, with its type, default and description; validation, the JSON Schema and
the reference in the docs are made from it. Attributes are the fields' names in snake_case,
durations are seconds. Sub-objects that Kubernetes defines (tolerations, volumes, resources) are
taken as they are. What no single field can say is in `checks`. Read through `asya.manifest`.
"""

from __future__ import annotations

import json
import keyword
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from asya import resiliency
from asya.addresses import TRANSPORTS
from asya.clock import from_rfc3339
from asya.document import quoted, shown
from asya.durations import DURATION_PATTERN, parse_duration
from asya.envelope import (
    END_ACTORS,
    NAME_MAX,
    NAME_PATTERN,
    ROUTE_MAX,
    is_actor_name,
)
from asya.errors import nearest
from asya.timetable import EVERY_MIN_S, Timetable, cron_line, time_zone

API_VERSION: Final = "asya.sh/v1alpha1"
GROUP: Final = "asya.sh/"
SYSTEM_NAMES: Final = "x-"
ATTEMPTS_MAX: Final = 1000
REPLICAS_MAX: Final = 10_000
CONCURRENCY_MAX: Final = 1000
SECONDS_MAX: Final = 10**9
RUNTIME_VARIABLES: Final = frozenset(
    f"ASYA_{name}"
    for name in ("SOCKET", "HANDLER", "ACTOR", "CONCURRENCY", "TOKEN", "PATH", "FILES", "FORKS")
)
"""Variables that the mesh sets for a replica; a manifest may not set them."""

KEY_LIFE_ACTIVE: Final = "active"

_HANDLER: Final = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"
_DOTTED: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _bad(text: str) -> PydanticCustomError:
    # a template of its own, so that braces in the user's text are no placeholders
    return PydanticCustomError("asya", "{text}", {"text": text})


def _label(value: str) -> str:
    if is_actor_name(value):
        return value
    made = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:NAME_MAX].strip("-")
    hint = f"; {quoted(made)} would do" if made else ""
    raise _bad(
        f'expected a name of a-z, 0-9 and "-" (at most {NAME_MAX}, "-" not at the ends), '
        f"got {quoted(value)}{hint}"
    )


def _own_name(value: str) -> str:
    if value.startswith(SYSTEM_NAMES):
        raise _bad(f'names that start with "x-" are reserved, got {quoted(value)}')
    return _label(value)


def _hop(value: str) -> str:
    if value in END_ACTORS:
        raise _bad(f"{value} cannot be in a route, because every envelope ends there anyway")
    return _label(value)


def _duration(value: Any) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        got = "" if isinstance(value, (str, int, float)) else f", got {shown(value)}"
        raise _bad(f"{error}{got}") from error


def _positive(value: float) -> float:
    if value <= 0:
        raise _bad('expected a duration longer than "0s"')
    return value


def _handler(value: str) -> str:
    if _DOTTED.fullmatch(value) and "." in value:
        for part in value.split("."):
            if keyword.iskeyword(part):
                raise _bad(f"{part!r} in {quoted(value)} is a keyword of Python")
        return value
    module, _, function = value.replace(".py:", ":").partition(":")
    hint = ""
    if function:
        hint = f"; {quoted(module.replace('/', '.') + '.' + function)} would do"
    raise _bad(f'expected "module.function" or "module.Class.method", got {quoted(value)}{hint}')


def _life(value: Any) -> float | None:
    return None if value == KEY_LIFE_ACTIVE else _positive(_duration(value))


def _distance(value: float) -> float:
    if value < EVERY_MIN_S:
        raise _bad(f"expected a duration of at least {EVERY_MIN_S:g}s")
    return value


def _cron(value: str) -> str:
    try:
        cron_line(value)
    except ValueError as error:
        raise _bad(str(error)) from error
    return value


def _zone(value: str) -> str:
    try:
        time_zone(value)
    except ValueError as error:
        raise _bad(str(error)) from error
    return value


def _moment(value: str) -> str:
    try:
        from_rfc3339(value)
    except (ValueError, OverflowError) as error:
        raise _bad(
            f"expected a time with an offset, such as 2026-11-23T18:25:00Z, got {quoted(value)}"
        ) from error
    return value


def _json(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise _bad("expected a JSON value; JSON has no NaN or Infinity") from error
    return value


def _pattern(value: str) -> str:
    if not _DOTTED.fullmatch(value):
        raise _bad(
            'expected the name of an error, such as "TimeoutError" or '
            f'"requests.exceptions.Timeout", got {quoted(value)}'
        )
    return value


def _transport(value: str) -> str:
    if value in TRANSPORTS:
        return value
    have = f"there are {', '.join(TRANSPORTS)}"
    close = nearest(value, TRANSPORTS)
    raise _bad(
        f"unknown transport {quoted(value)}; " + (f"did you mean {close!r}?" if close else have)
    )


def _no_batching(value: Any) -> None:
    if value is not None:
        raise _bad(
            "batching is not supported by this version of Asya; remove it, and the handler gets "
            "one payload at a time"
        )


def _variable(value: str) -> str:
    if not value or "=" in value or "\0" in value:
        raise _bad(f'expected the name of a variable, without "=", got {quoted(value)}')
    if value in RUNTIME_VARIABLES:
        raise _bad(f"{value} is set by the mesh; choose another name")
    return value


def _value(value: Any) -> Any:
    if isinstance(value, str) and "\0" in value:
        raise _bad("a variable's value may not hold a NUL character")
    if isinstance(value, bool) or (value is not None and not isinstance(value, str)):
        hint = "" if isinstance(value, (dict, list)) else f"; write it in quotes: '{shown(value)}'"
        raise _bad(f"expected a string, got {shown(value)}{hint}")
    return value


def _resources(value: dict[str, Any]) -> dict[str, Any]:
    for key in ("limits", "requests"):
        if key in value and not isinstance(value[key], dict):
            raise _bad(f"expected a mapping as {key}, got {shown(value[key])}")
    return value


def _name_schema(description: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "string",
            "pattern": NAME_PATTERN,
            "maxLength": NAME_MAX,
            "description": description,
        }
    )


_DURATION_SCHEMA: Final = WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN})

Mapping = dict[str, Any]
Resources = Annotated[dict[str, Any], AfterValidator(_resources)]
Label = Annotated[str, AfterValidator(_label), _name_schema("A DNS label")]
OwnName = Annotated[
    str, AfterValidator(_own_name), _name_schema('A DNS label that does not start with "x-"')
]
Hop = Annotated[
    str, AfterValidator(_hop), _name_schema("An actor's name; not `x-sink` or `x-sump`")
]
Duration = Annotated[float, BeforeValidator(_duration), _DURATION_SCHEMA]
LongerThanZero = Annotated[
    float, AfterValidator(_positive), BeforeValidator(_duration), _DURATION_SCHEMA
]
KeyLife = Annotated[
    float | None,
    BeforeValidator(_life),
    WithJsonSchema({"type": "string", "pattern": f"^{KEY_LIFE_ACTIVE}$|{DURATION_PATTERN}"}),
]
Distance = Annotated[float, AfterValidator(_distance), BeforeValidator(_duration), _DURATION_SCHEMA]
CronLine = Annotated[str, AfterValidator(_cron), WithJsonSchema({"type": "string"})]
Zone = Annotated[str, AfterValidator(_zone), WithJsonSchema({"type": "string"})]
Moment = Annotated[
    str, AfterValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
JsonValue = Annotated[Any, AfterValidator(_json), WithJsonSchema({})]
Handler = Annotated[
    str, AfterValidator(_handler), WithJsonSchema({"type": "string", "pattern": _HANDLER})
]
Pattern = Annotated[str, AfterValidator(_pattern), WithJsonSchema({"type": "string"})]
Transport = Annotated[
    str, AfterValidator(_transport), WithJsonSchema({"type": "string", "enum": list(TRANSPORTS)})
]
Unsupported = Annotated[None, BeforeValidator(_no_batching), WithJsonSchema({"type": "null"})]
Variable = Annotated[
    str, AfterValidator(_variable), WithJsonSchema({"type": "string", "pattern": "^[^=]+$"})
]
Text = Annotated[str, Field(min_length=1)]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]


def _after(default: str, description: str) -> Any:
    """A field whose default is a duration."""
    return Field(
        parse_duration(default), description=description, json_schema_extra={"default": default}
    )


class Part(BaseModel):
    """Base of all models: strict, frozen, camelCase in YAML."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        hide_input_in_errors=True,
    )


class Metadata(Part):
    """Name and labels, as everywhere in Kubernetes."""

    name: OwnName = Field(
        description="Name of the object; also the actor's name if `spec.actor` is not set"
    )
    namespace: Label | None = Field(
        default=None, description="Defaults to the mesh's namespace, `default`"
    )
    labels: dict[str, str] = Field(default={}, description="As in Kubernetes")
    annotations: dict[str, str] = Field(default={}, description="As in Kubernetes")


class EnvVar(Part):
    """One environment variable of the handler's process."""

    name: Variable = Field(description="The variable's name")
    value: Annotated[str | None, BeforeValidator(_value)] = Field(
        default=None,
        description="The value, a string; empty if neither `value` nor `valueFrom` is set",
    )
    value_from: Mapping | None = Field(
        default=None,
        description="As in Kubernetes. On a laptop this field has no effect, with a warning, and"
        " the value comes from the environment of `asya up` or from `.env`",
    )


class SecretKey(Part):
    """One key of a secret, and the variable that carries it."""

    key: Text = Field(description="The key in the secret")
    env_var: Variable = Field(description="The variable that the handler reads")


class SecretRef(Part):
    """Keys of one Kubernetes secret as environment variables."""

    secret_name: Text = Field(description="The Kubernetes secret")
    keys: list[SecretKey] = Field(min_length=1, description="The keys and their variables")


class Advanced(Part):
    """KEDA's `advanced` settings; used on Kubernetes only."""

    restore_to_original_replica_count: bool = Field(default=False, description="As in KEDA")
    formula: str | None = Field(default=None, description="KEDA's scaling formula")
    target: str | None = Field(default=None, description="KEDA's target of the formula")
    activation_target: str | None = Field(default=None, description="KEDA's activation target")
    metric_type: Literal["AverageValue", "Value", "Utilization"] | None = Field(
        default=None, description="KEDA's type of the metric"
    )


class Scaling(Part):
    """How many replicas: `ceil((ready + in flight) / queueLength)`, within the bounds."""

    enabled: bool = Field(
        default=True, description="With `false`, always run `spec.replicas` replicas"
    )
    min_replica_count: int = Field(
        default=0,
        ge=0,
        le=REPLICAS_MAX,
        description="Lowest number of replicas; with 0 an idle actor scales to zero",
    )
    max_replica_count: int = Field(
        default=10, ge=1, le=REPLICAS_MAX, description="Highest number of replicas"
    )
    polling_interval: int = Field(
        default=30,
        ge=1,
        le=SECONDS_MAX,
        description="Seconds between two checks of the queue; on a laptop the autoscaler reacts "
        "at once",
    )
    cooldown_period: int = Field(
        default=300,
        ge=0,
        le=SECONDS_MAX,
        description="Seconds without work before the last replicas end; on a laptop at most the "
        "setting `cooldown`",
    )
    queue_length: int = Field(
        default=5, ge=1, le=SECONDS_MAX, description="Ready and in-flight envelopes per replica"
    )
    advanced: Advanced | None = Field(
        default=None, description="KEDA's `advanced`; used on Kubernetes only"
    )
    additional_triggers: list[Mapping] = Field(
        default=[], description="More KEDA triggers in KEDA's format; used on Kubernetes only"
    )


class PolicySpec(Part):
    """What to do with an envelope whose handler failed."""

    max_attempts: int = Field(
        default=1, ge=1, le=ATTEMPTS_MAX, description="Total number of attempts; 1 means no retry"
    )
    backoff: resiliency.Backoff = Field(
        default="exponential",
        description="How the delay d grows with the retry n: d, n·d, or d·2^(n-1)",
    )
    initial_delay: Duration = _after("1s", "Delay of the first retry")
    max_interval: Duration = _after("5m", "Longest delay")
    max_duration: LongerThanZero | None = Field(
        default=None, description="No retry starts later than this after the first attempt"
    )
    jitter: bool = Field(
        default=False, description="Choose each delay at random between 0 and its value"
    )
    on_exhausted: list[Hop] = Field(
        default=[],
        max_length=ROUTE_MAX,
        description="Actors that get the envelope after the last attempt; by default `x-sink`",
    )


class RuleSpec(Part):
    """Errors that get a policy. Rules are tried in order; the first match wins."""

    errors: list[Pattern] = Field(
        min_length=1,
        description="Names of error classes. A name with a dot is the full name, a name without "
        "a dot is the last part. Base classes match, too",
    )
    policy: Text = Field(description="The policy for these errors, a key of `policies`")


class ResiliencySpec(Part):
    """Time limit, retries, and where failed envelopes go."""

    actor_timeout: LongerThanZero = _after(
        "5m", "Longest run of a handler; after that it is stopped"
    )
    policies: dict[Text, PolicySpec] = Field(
        default={}, description="Policies by name; `default` is for errors that match no rule"
    )
    rules: list[RuleSpec] = Field(
        default=[], description="Which errors get which policy; the first match wins"
    )


class SidecarSpec(Part):
    """The sidecar's container; Kubernetes only."""

    image: Text | None = Field(default=None, description="Image to use instead of the mesh's")
    image_pull_policy: PullPolicy = Field(default="IfNotPresent", description="As in Kubernetes")
    env: list[EnvVar] = Field(default=[], description="Environment variables of the sidecar")
    resources: Resources = Field(default={}, description="As in Kubernetes")


class ActorSpec(Part):
    """What an actor is."""

    handler: Handler = Field(description="`module.function` or `module.Class.method`")
    actor: OwnName | None = Field(
        default=None,
        description="Logical name of the actor and its queue; defaults to `metadata.name`",
    )
    transport: Transport | None = Field(
        default=None,
        description="The broker of the actor's queue: "
        + ", ".join(f"`{name}`" for name in TRANSPORTS)
        + "; defaults to the mesh's broker. Settings have its address",
    )
    image: Text | None = Field(
        default=None,
        description="Image of the handler. A laptop does not use it and imports the handler from"
        " the manifest's folder",
    )
    image_pull_policy: PullPolicy = Field(default="IfNotPresent", description="As in Kubernetes")
    python_executable: Text = Field(default="python3", description="The interpreter in the image")
    env: list[EnvVar] = Field(
        default=[], description="Environment variables, in the format of Kubernetes"
    )
    secret_refs: list[SecretRef] = Field(
        default=[], description="Secrets as variables; on a laptop from the environment or `.env`"
    )
    resources: Resources = Field(default={}, description="As in Kubernetes")
    tolerations: list[Mapping] = Field(default=[], description="As in Kubernetes")
    node_selector: dict[str, str] = Field(default={}, description="As in Kubernetes")
    volumes: list[Mapping] = Field(default=[], description="As in Kubernetes")
    volume_mounts: list[Mapping] = Field(default=[], description="As in Kubernetes")
    replicas: int = Field(
        default=1,
        ge=0,
        le=REPLICAS_MAX,
        description="Number of replicas; only with `scaling.enabled: false`",
    )
    scaling: Scaling = Field(
        default=Scaling(), description="How the number of replicas follows the queue"
    )
    resiliency: ResiliencySpec = Field(default=ResiliencySpec(), description="Timeouts and retries")
    concurrency: int = Field(
        default=1,
        ge=1,
        le=CONCURRENCY_MAX,
        description="How many envelopes a replica processes at a time",
    )
    batching: Unsupported = Field(
        default=None,
        description="`{maxSize, maxWait}`; this version does not support batching "
        "and refuses this field",
    )
    delivery: Literal["durable", "express"] = Field(
        default="durable",
        description="How envelopes travel to this actor. This version always uses the broker and"
        " warns about `express`",
    )
    group: Label | None = Field(
        default=None,
        description="Actors of one group may share a replica. This version gives each actor its "
        "own replicas and warns",
    )
    capture: Literal["none", "errors", "sample", "all"] | None = Field(
        default=None,
        description="Which payloads of the actor's hops are kept for `asya trace`: none, those "
        "of failed attempts, those of a share of the envelopes, or all. Defaults to "
        "the setting `capture`",
    )
    sidecar: SidecarSpec = Field(default=SidecarSpec(), description="The sidecar's container")


class Expose(Part):
    """Which clients see a flow."""

    http: bool = Field(default=True, description="`POST /v1/flows/{flow}`")
    mcp: bool = Field(
        default=False, description="Offer the flow as an MCP tool, in versions with MCP"
    )
    a2a: bool = Field(
        default=False,
        alias="a2a",
        description="Offer the flow as an A2A skill, in versions with A2A",
    )


class IdempotencySpec(Part):
    """What an `Idempotency-Key` means, where a request does not say it."""

    policy: Literal["return-existing", "reject", "replace"] = Field(
        default="return-existing",
        description="What happens to a request whose key another envelope holds: answer with "
        "that envelope, refuse the request, or cancel that envelope and admit the "
        "new one",
    )
    life: KeyLife = Field(
        default=parse_duration("24h"),
        description="How long an envelope holds its key: a duration, or `active` until the "
        "envelope has ended",
        json_schema_extra={"default": "24h"},
    )


class FlowSpec(Part):
    """An entry into the mesh."""

    route: list[Hop] = Field(min_length=1, max_length=ROUTE_MAX, description="The actors, in order")
    description: str = Field(
        default="", description="What the flow does, for people and for agents"
    )
    input_schema: Mapping | None = Field(
        default=None,
        description="JSON Schema for payloads; Draft 2020-12 unless `$schema` names another",
    )
    timeout: LongerThanZero | None = Field(
        default=None, description="Time limit; after this an envelope fails with `DeadlineExceeded`"
    )
    idempotency: IdempotencySpec = Field(
        default=IdempotencySpec(), description="How the header `Idempotency-Key` works"
    )
    expose: Expose = Field(default=Expose(), description="Which clients see the flow")


class ScheduleSpec(Part):
    """When a payload is sent, and where."""

    flow: Label | None = Field(
        default=None, description="The flow that gets the payload; required without `route`"
    )
    route: list[Hop] | None = Field(
        default=None,
        min_length=1,
        max_length=ROUTE_MAX,
        description="The actors, in order; required without `flow`",
    )
    payload: JsonValue = Field(default=None, description="The payload, any value")
    cron: CronLine | None = Field(
        default=None,
        description="Five fields (minute, hour, day of month, month, day of week) with `*`, "
        "lists, ranges, steps and names (`MON-FRI`), or `@hourly`, `@daily`, "
        "`@weekly`, `@monthly`, `@yearly`; required without `every`",
    )
    every: Distance | None = Field(
        default=None,
        description="Time between two runs, at least 1s, counted from `startsAt` or else from "
        "1970-01-01T00:00:00Z; required without `cron`",
    )
    timezone: Zone = Field(
        default="UTC",
        description="Time zone of the cron line: an IANA name such as `Europe/Berlin`",
    )
    missed_runs: Literal["skip", "last", "all"] = Field(
        default="last",
        description="Which missed runs are sent later: none, the newest, or all (at most the 100"
        " newest)",
    )
    concurrency_policy: Literal["allow", "forbid", "replace"] = Field(
        default="allow",
        description="What happens if the previous run has not ended: both run, the new run is "
        "skipped, or the previous run is canceled",
    )
    suspended: bool = Field(
        default=False,
        description="With `true` there are no runs until `asya schedules resume NAME`",
    )
    starts_at: Moment | None = Field(default=None, description="No run before this time")
    ends_at: Moment | None = Field(default=None, description="No run after this time")
    timeout: LongerThanZero | None = Field(
        default=None, description="Time limit of one run; defaults to the flow's"
    )

    def timetable(self) -> Timetable:
        """When it is due."""
        return Timetable(
            cron=None if self.cron is None else cron_line(self.cron),
            every_s=self.every,
            zone=time_zone(self.timezone),
            starts_at=None if self.starts_at is None else from_rfc3339(self.starts_at),
            ends_at=None if self.ends_at is None else from_rfc3339(self.ends_at),
        )


class Source(NamedTuple):
    """Position of a manifest: the file as the user named it, and the line from 1."""

    file: Path
    line: int


class _Manifest(Part):
    api_version: Literal["asya.sh/v1alpha1"] = Field(description="Version of the format")
    kind: str = Field(description="What this is")
    metadata: Metadata = Field(description="Name, namespace, labels")

    _source: Source = PrivateAttr(Source(Path(), 0))
    _folder: Path = PrivateAttr(Path())
    _namespace: str = PrivateAttr("default")

    def place(self, source: Source, folder: Path, namespace: str) -> None:
        """Say where this comes from, and the namespace of a manifest that names none."""
        self._source = source
        self._folder = folder
        self._namespace = namespace

    @property
    def source(self) -> Source:
        """Where the manifest stands."""
        return self._source

    @property
    def folder(self) -> Path:
        """The manifest's folder, absolute; on a laptop handlers are imported from it."""
        return self._folder

    @property
    def namespace(self) -> str:
        """`metadata.namespace`, or the mesh's."""
        return self.metadata.namespace or self._namespace


class AsyncActor(_Manifest):
    """A function as an actor: its queue, its replicas, its rules."""

    kind: Literal["AsyncActor"] = Field(description="What this is")
    spec: ActorSpec = Field(description="What the actor is")

    @property
    def name(self) -> str:
        """Logical name of the actor and its queue."""
        return self.spec.actor or self.metadata.name

    def resiliency(self) -> resiliency.Resiliency:
        """`spec.resiliency` as the sidecar's `decide` takes it."""
        spec = self.spec.resiliency
        return resiliency.Resiliency(
            actor_timeout_s=spec.actor_timeout,
            policies={name: _policy(name, policy) for name, policy in spec.policies.items()},
            rules=tuple(
                resiliency.Rule(errors=tuple(rule.errors), policy=rule.policy)
                for rule in spec.rules
            ),
        )


def _policy(name: str, spec: PolicySpec) -> resiliency.Policy:
    return resiliency.Policy(
        name=name,
        max_attempts=spec.max_attempts,
        backoff=spec.backoff,
        initial_delay_s=spec.initial_delay,
        max_interval_s=spec.max_interval,
        max_duration_s=spec.max_duration,
        jitter=spec.jitter,
        on_exhausted=tuple(spec.on_exhausted),
    )


class Flow(_Manifest):
    """A named entry into the mesh, and what clients may see of it."""

    kind: Literal["Flow"] = Field(description="What this is")
    spec: FlowSpec = Field(description="What the flow is")

    @property
    def name(self) -> str:
        """The name that clients call."""
        return self.metadata.name

    @property
    def route(self) -> list[str]:
        """The actors, in order."""
        return self.spec.route

    @property
    def description(self) -> str:
        """What it does."""
        return self.spec.description

    @property
    def input_schema(self) -> dict[str, Any] | None:
        """JSON Schema for payloads, or None."""
        return self.spec.input_schema

    @property
    def timeout_s(self) -> float | None:
        """Time limit in seconds, or None."""
        return self.spec.timeout

    @property
    def expose(self) -> Expose:
        """Which clients see the flow."""
        return self.spec.expose


class Schedule(_Manifest):
    """A payload that is sent at the times of a plan."""

    kind: Literal["Schedule"] = Field(description="What this is")
    spec: ScheduleSpec = Field(description="When, and what")

    @property
    def name(self) -> str:
        """The schedule's name."""
        return self.metadata.name


AnyManifest = AsyncActor | Flow | Schedule

KINDS: Final[dict[str, type[AnyManifest]]] = {
    "AsyncActor": AsyncActor,
    "Flow": Flow,
    "Schedule": Schedule,
}
