"""From Schedule manifests to what the gateway fires: flows are looked up, payloads become JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from asya.codes import Code
from asya.durations import format_duration
from asya.envelope import raw_json
from asya.errors import UsageError, nearest
from asya.manifest import Flow, Manifests, Schedule
from asya.tasks.schedule import ScheduleSpec


def schedule_specs(manifests: Manifests, namespace: str) -> list[ScheduleSpec]:
    """What the schedules of these manifests send.

    Raises:
        UsageError: One belongs to another namespace, or names a flow that is not there.
    """
    flows = {flow.name: flow for flow in manifests.flows}
    problems = list(_problems(manifests.schedules, flows, namespace))
    if problems:
        raise UsageError("\n".join(problems), code=Code.NAME_UNKNOWN)
    return [_spec(schedule, flows) for schedule in manifests.schedules]


def _problems(
    schedules: Iterable[Schedule], flows: Mapping[str, Flow], namespace: str
) -> Iterable[str]:
    for schedule in schedules:
        place = f"{schedule.source.file}:{schedule.source.line}: schedule {schedule.name}"
        if schedule.namespace != namespace:
            yield (
                f"{place} is in the namespace {schedule.namespace}; this mesh runs {namespace}, "
                "set ASYA_NAMESPACE or `namespace` in asya.yaml to run the other"
            )
        flow = schedule.spec.flow
        if flow is not None and flow not in flows:
            close = nearest(flow, flows)
            hint = f"; did you mean {close!r}?" if close else ""
            yield f"{place} sends into the flow {flow!r}, which is not in this mesh{hint}"


def _spec(schedule: Schedule, flows: Mapping[str, Flow]) -> ScheduleSpec:
    spec = schedule.spec
    flow = None if spec.flow is None else flows[spec.flow]
    route = spec.route or [] if flow is None else flow.route
    timeout_s = spec.timeout
    if timeout_s is None and flow is not None:
        timeout_s = flow.timeout_s
    return ScheduleSpec(
        name=schedule.name,
        route=tuple(route),
        payload=raw_json(spec.payload),
        timetable=spec.timetable(),
        text=spec.cron or f"every {format_duration(spec.every or 0)}",
        timezone=spec.timezone,
        flow=spec.flow,
        timeout_s=timeout_s,
        missed_runs=spec.missed_runs,
        concurrency_policy=spec.concurrency_policy,
        suspended=spec.suspended,
    )
