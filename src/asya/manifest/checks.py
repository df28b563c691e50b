"""What no single field can say: fields against one another, and manifests against one another.

The checks of one document work on the data as it was written, not on the model, so that they run
beside the validation and all problems of a file come out at once. Called by `loading`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from asya.codes import Code
from asya.document import Document, Loc, Problem, quoted, shown, unknown
from asya.errors import nearest
from asya.manifest.model import (
    SYSTEM_NAMES,
    AnyManifest,
    AsyncActor,
    Flow,
    Scaling,
    Schedule,
)
from asya.timetable import EPOCH


def document_problems(data: Any, document: Document) -> Iterator[Problem]:
    """What is wrong between the fields of one document."""
    spec = _mapping(data, "spec")
    if data.get("kind") == "Flow":
        yield from _schema_problems(spec.get("inputSchema"), document)
        return
    if data.get("kind") == "Schedule":
        yield from _schedule_problems(spec, document)
        return
    scaling = _mapping(spec, "scaling")
    yield from _scaling_problems(scaling, document)
    if "replicas" in spec and scaling.get("enabled", True) is True:
        yield document.problem(
            ("spec", "replicas"),
            "has no effect while scaling is enabled; add `scaling: {enabled: false}`, or use "
            "`scaling.minReplicaCount` and `maxReplicaCount`",
            key=True,
            code=Code.FIELDS_CONTRADICT,
        )
    yield from _rule_problems(_mapping(spec, "resiliency"), document)
    yield from _env_problems(spec.get("env"), ("spec", "env"), document)
    yield from _env_problems(
        _mapping(spec, "sidecar").get("env"), ("spec", "sidecar", "env"), document
    )


def _mapping(data: Any, key: str) -> dict[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            yield index, item


def _schedule_problems(spec: dict[str, Any], document: Document) -> Iterator[Problem]:
    for one, other in (("cron", "every"), ("flow", "route")):
        given = [name for name in (one, other) if spec.get(name) is not None]
        if len(given) != 1:
            text = f"expected `{one}` or `{other}`, got " + ("both" if given else "neither")
            loc: Loc = ("spec", other) if given else ("spec",)
            code = Code.FIELDS_CONTRADICT if given else Code.FIELD_MISSING
            yield document.problem(loc, text, key=True, code=code)
    if spec.get("every") is not None and spec.get("timezone") is not None:
        yield document.problem(
            ("spec", "timezone"),
            "has no effect without `cron`; `every` does not depend on time zones",
            key=True,
            code=Code.FIELDS_CONTRADICT,
        )


def schedule_problems(placed: Iterable[Placed]) -> Iterator[Problem]:
    """Schedules whose bounds leave no due time, or whose payload their flow would refuse."""
    everything = list(placed)
    flows = {(m.namespace, m.name): m for m, _ in everything if isinstance(m, Flow)}
    for manifest, document in everything:
        if not isinstance(manifest, Schedule):
            continue
        spec = manifest.spec
        given = spec.cron is not None or spec.every is not None
        if given and spec.timetable().next_after(EPOCH) is None:
            yield document.problem(
                ("spec", "endsAt"),
                "leaves no due time: the schedule would never fire",
                code=Code.FIELDS_CONTRADICT,
            )
        flow = flows.get((manifest.namespace, spec.flow or ""))
        if flow is not None and flow.input_schema is not None:
            yield from _payload_problems(spec.payload, flow.name, flow.input_schema, document)


def _payload_problems(
    payload: Any, flow: str, schema: dict[str, Any], document: Document
) -> Iterator[Problem]:
    try:
        from jsonschema import SchemaError
        from jsonschema.validators import Draft202012Validator, validator_for
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ImportError:
        return
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        for error in kind(schema, registry=Registry()).iter_errors(payload):
            loc: Loc = ("spec", "payload", *error.absolute_path)
            text = f"does not fit the inputSchema of the flow {flow}: {error.message[:200]}"
            yield document.problem(loc, text, code=Code.FIELD_INVALID)
    except (SchemaError, Unresolvable, RecursionError):
        return  # the flow's own problem, which is told there


def _scaling_problems(scaling: dict[str, Any], document: Document) -> Iterator[Problem]:
    fewest = scaling.get("minReplicaCount")
    default = cast("int", Scaling.model_fields["max_replica_count"].default)
    most = scaling.get("maxReplicaCount", default)
    if type(fewest) is int and type(most) is int and fewest > most:
        which = "" if "maxReplicaCount" in scaling else ", its default"
        yield document.problem(
            ("spec", "scaling", "minReplicaCount"),
            f"expected at most maxReplicaCount ({most}{which}), got {fewest}",
            code=Code.FIELDS_CONTRADICT,
        )


def _rule_problems(resiliency: dict[str, Any], document: Document) -> Iterator[Problem]:
    policies = [str(name) for name in _mapping(resiliency, "policies")]
    for index, rule in _items(resiliency.get("rules")):
        policy = rule.get("policy")
        if isinstance(policy, str) and policy and policy not in policies:
            text = unknown("policy", policy, policies)
            if not policies:
                text += "; there is no `policies`"
            yield document.problem(
                ("spec", "resiliency", "rules", index, "policy"), text, code=Code.FIELDS_CONTRADICT
            )


def _env_problems(env: Any, loc: Loc, document: Document) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, item in _items(env):
        name = item.get("name")
        if item.get("value") is not None and item.get("valueFrom") is not None:
            text = "expected `value` or `valueFrom`, got both"
            yield document.problem(
                (*loc, index, "valueFrom"), text, key=True, code=Code.FIELDS_CONTRADICT
            )
        if isinstance(name, str):
            if name in seen:
                text = f"{quoted(name)} occurs twice"
                yield document.problem((*loc, index, "name"), text, code=Code.FIELDS_CONTRADICT)
            seen.add(name)


def _schema_problems(schema: Any, document: Document) -> Iterator[Problem]:
    if not isinstance(schema, dict):
        return
    loc: Loc = ("spec", "inputSchema")
    try:
        from jsonschema import Draft202012Validator, SchemaError
        from jsonschema.validators import validator_for
    except ImportError:
        # without the extra `gateway` nothing here could check a payload either
        return
    validator = validator_for(schema, default=Draft202012Validator)
    dialect = schema.get("$schema", validator.META_SCHEMA["$id"])
    if not isinstance(dialect, str) or dialect.rstrip("#") != validator.META_SCHEMA["$id"].rstrip(
        "#"
    ):
        text = f"unknown dialect {shown(dialect)}; leave it out for Draft 2020-12"
        yield document.problem((*loc, "$schema"), text)
        return
    try:
        validator.check_schema(schema)
    except SchemaError as error:
        path: Loc = (*loc, *error.absolute_path)
        yield document.problem(path, f"is not a valid JSON Schema: {error.message[:200]}")
    except RecursionError:
        yield document.problem(loc, "is nested too deeply")


def document_warnings(data: Any, document: Document) -> Iterator[Problem]:
    """What is allowed, and yet may surprise."""
    spec = _mapping(data, "spec")
    if spec.get("delivery") == "express":
        yield document.problem(
            ("spec", "delivery"),
            "this version always uses the broker (`durable`), which is slower and loses nothing",
        )
    if spec.get("group") is not None:
        yield document.problem(("spec", "group"), "this version gives each actor its own replicas")
    for index, item in _items(spec.get("env")):
        if item.get("valueFrom") is not None:
            yield document.problem(
                ("spec", "env", index, "valueFrom"),
                f"is read on Kubernetes only; on a laptop set {item.get('name')} in the "
                "environment or in .env",
                key=True,
            )


@dataclass(frozen=True)
class Named:
    """A manifest's names as they were written, whether or not the rest of it is right."""

    kind: str
    namespace: str
    name: str
    actor: str | None
    document: Document


def named(data: Any, document: Document, namespace: str) -> Named | None:
    """The names in a document; None where there is no usable one."""
    metadata = _mapping(data, "metadata")
    name, own = metadata.get("name"), metadata.get("namespace")
    if not isinstance(name, str):
        return None
    actor = _mapping(data, "spec").get("actor")
    return Named(
        kind=data["kind"],
        namespace=own if isinstance(own, str) else namespace,
        name=name,
        actor=actor if isinstance(actor, str) else None,
        document=document,
    )


def name_problems(everything: Iterable[Named]) -> Iterator[Problem]:
    """Two actors of one name, two objects of one kind and name; both places are named."""
    objects: dict[tuple[str, str, str], Named] = {}
    actors: dict[tuple[str, str], Named] = {}
    for item in everything:
        first = objects.setdefault((item.kind, item.namespace, item.name), item)
        if first is not item:
            where = _place(first.document, ("metadata", "name"))
            text = f"another {item.kind} {quoted(item.name)} is defined at {where}"
            yield item.document.problem(("metadata", "name"), text, code=Code.NAME_TAKEN)
        if item.kind != "AsyncActor":
            continue
        name = item.actor or item.name
        other = actors.setdefault((item.namespace, name), item)
        if other is not item and first is item:
            where = _place(other.document, _actor_loc(other))
            text = f"another actor {quoted(name)} is defined at {where}"
            yield item.document.problem(_actor_loc(item), text, code=Code.NAME_TAKEN)


def _actor_loc(item: Named) -> Loc:
    return ("spec", "actor") if item.actor else ("metadata", "name")


def _place(document: Document, loc: Loc) -> str:
    return f"{document.file}:{document.line_of(loc)}"


Placed = tuple[AnyManifest, Document]


def route_warnings(placed: Iterable[Placed], also: Collection[str] = ()) -> Iterator[Problem]:
    """Routes that name an actor which is not among these manifests; it may live elsewhere.

    `also` are names of actors without a manifest.
    """
    everything = list(placed)
    known: defaultdict[str, set[str]] = defaultdict(lambda: set(also))
    for manifest, _ in everything:
        if isinstance(manifest, AsyncActor):
            known[manifest.namespace].add(manifest.name)
    yield from _flow_warnings(everything)
    for manifest, document in everything:
        names = known[manifest.namespace]
        for loc, name in _routes(manifest):
            if name not in names:
                close = nearest(name, names)
                hint = f"; did you mean {close!r}?" if close else ""
                if name.startswith(SYSTEM_NAMES):
                    hint = f'; names that start with "{SYSTEM_NAMES}" are reserved'
                text = f"no actor {quoted(name)} among these manifests{hint}"
                yield document.problem(loc, text)


def _flow_warnings(placed: Iterable[Placed]) -> Iterator[Problem]:
    everything = list(placed)
    flows = {(m.namespace, m.name) for m, _ in everything if isinstance(m, Flow)}
    for manifest, document in everything:
        if not isinstance(manifest, Schedule) or manifest.spec.flow is None:
            continue
        if (manifest.namespace, manifest.spec.flow) not in flows:
            close = nearest(manifest.spec.flow, [name for _, name in flows])
            hint = f"; did you mean {close!r}?" if close else ""
            text = f"no flow {quoted(manifest.spec.flow)} among these manifests{hint}"
            yield document.problem(("spec", "flow"), text, code=Code.NAME_UNKNOWN)


def _routes(manifest: AnyManifest) -> Iterator[tuple[Loc, str]]:
    if isinstance(manifest, Schedule):
        for index, name in enumerate(manifest.spec.route or ()):
            yield ("spec", "route", index), name
        return
    if isinstance(manifest, Flow):
        for index, name in enumerate(manifest.route):
            yield ("spec", "route", index), name
        return
    for policy, spec in manifest.spec.resiliency.policies.items():
        for index, name in enumerate(spec.on_exhausted):
            yield ("spec", "resiliency", "policies", policy, "onExhausted", index), name
