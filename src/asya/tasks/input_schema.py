"""Payloads against a flow's JSON Schema.

jsonschema is imported with the first payload that must fit a schema, because the import takes half
as long as the gateway's start. References are resolved inside the schema only, never fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from asya.tasks.mesh import FlowSpec
from asya.tasks.refusals import Fault, Kind, Refusal

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

INLINE_MAX_BYTES: Final = 64 * 1024
"""Larger payloads are checked in a thread: it takes milliseconds."""

FAULTS_MAX: Final = 20
"""Faults that are reported of one payload."""


class Schemas:
    """Validators of flows, each made once."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Mapping[str, Any], Validator]] = {}

    async def check(self, flow: FlowSpec, payload: Any, size_bytes: int) -> None:
        """Refuse a payload that does not fit the flow's schema; anything fits if it has none.

        Raises:
            Refusal: Names each path that does not fit, or says that the schema cannot be used.
        """
        if flow.input_schema is None:
            return
        if size_bytes > INLINE_MAX_BYTES:
            faults = await asyncio.to_thread(self.faults, flow, payload)
        else:
            faults = self.faults(flow, payload)
        if faults:
            paths = ", ".join(dict.fromkeys(fault.path for fault in faults))
            text = f"the payload does not fit the input schema of the flow {flow.name}: {paths}"
            raise Refusal(Kind.INVALID_PAYLOAD, text, faults=faults)

    def faults(self, flow: FlowSpec, payload: Any) -> list[Fault]:
        """What is wrong with a payload; empty when it fits.

        Raises:
            Refusal: The schema itself cannot be used.
        """
        if flow.input_schema is None:
            return []
        from jsonschema.exceptions import SchemaError
        from referencing.exceptions import Unresolvable

        faults: list[Fault] = []
        try:
            for error in self._validator(flow.name, flow.input_schema).iter_errors(payload):
                faults += [fault for fault in _faults(error) if fault not in faults]
                if len(faults) >= FAULTS_MAX:
                    break
        except (SchemaError, Unresolvable, RecursionError) as error:
            raise Refusal(
                Kind.INTERNAL, f"the input schema of the flow {flow.name} cannot be used: {error}"
            ) from error
        return faults[:FAULTS_MAX]

    def _validator(self, name: str, schema: Mapping[str, Any]) -> Validator:
        made = self._made.get(name)
        if made is not None and made[0] is schema:
            return made[1]
        from jsonschema.validators import Draft202012Validator, validator_for
        from referencing import Registry

        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(dict(schema))
        validator: Validator = kind(dict(schema), registry=Registry())
        self._made[name] = (schema, validator)
        return validator


def _faults(error: ValidationError) -> list[Fault]:
    """One fault for each failing path: a missing property has a path of its own."""
    path = error.json_path
    if error.validator == "required" and isinstance(error.instance, dict):
        return [
            Fault(member_path(path, name), f"{name!r} is required")
            for name in cast("list[str]", error.validator_value)
            if name not in error.instance
        ]
    message = error.message
    return [Fault(path, message if len(message) <= 500 else message[:500] + "…")]


def member_path(path: str, name: str) -> str:
    """The path of a member of the object at `path`."""
    return f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r}]"
