"""The broker: the program that `asya up` would start, or the server that a URL names."""

from __future__ import annotations

import asyncio
import re
import subprocess
from typing import TYPE_CHECKING, Final

from asya.codes import Code
from asya.envelope import SINK, SUMP, queue_name
from asya.local.doctor.checks import Seen
from asya.local.doctor.set_up import SetUp

if TYPE_CHECKING:
    from asya.transports.nats_survey import Survey

SERVER_MIN: Final = (2, 12)
ANSWER_S: Final = 1.5
SKEW_MAX_S: Final = 2.0
"""Further apart, clocks make delays and deadlines visibly wrong."""


def look_at_program(setup: SetUp) -> Seen:
    """The nats-server program and its version."""
    if setup.settings.transport_url is not None:
        yield "skip", "not needed: the settings name a broker"
        return
    from asya.local.broker import find_binary

    program = find_binary(setup.settings.nats_server)
    said = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=ANSWER_S, check=False
    ).stdout
    version = re.search(r"v?(\d+)\.(\d+)\.\d+", said)
    if version is None:
        yield (
            "fail",
            f"{program} does not say its version; is it a nats-server?",
            Code.BROKER_MISSING,
        )
    elif (int(version[1]), int(version[2])) < SERVER_MIN:
        text = f"{program} is {version[0]}; 2.12 is needed: pip install 'asya[local]'"
        yield "fail", text, Code.BROKER_OUTDATED
    else:
        yield "ok", f"nats-server {version[0].removeprefix('v')} ({program})"


def look_at_broker(setup: SetUp) -> Seen:
    """The server that the settings name: reachable, and with the queues it should have."""
    url = setup.settings.transport_url
    if url is None:
        yield "skip", "`asya up` starts one of its own"
        return
    from asya.transports.nats_survey import survey

    found = asyncio.run(survey(url, setup.settings.namespace, ANSWER_S))
    yield from _judge(found, setup)


def _judge(found: Survey, setup: SetUp) -> Seen:
    namespace = setup.settings.namespace
    at = f"NATS {found.version} at {found.where}"
    if found.skew_s is not None and abs(found.skew_s) > SKEW_MAX_S:
        text = f"{at}: its clock is {found.skew_s:+.1f} s from ours; synchronise both"
        yield "fail", text, Code.CLOCK_WRONG
    if not found.has_stream:
        yield "ok", f"{at}; nothing of the namespace {namespace} yet, `asya up` makes it"
        return
    if not found.is_ours:
        text = f"{at}: the stream asya-{namespace} is somebody else's; take another namespace"
        yield "fail", text, Code.TRANSPORT
        return
    if not found.can_delay:
        text = f"{at}: the stream asya-{namespace} cannot delay messages; NATS 2.12 is needed"
        yield "fail", text, Code.BROKER_OUTDATED
    wanted = {queue_name(namespace, name) for name in (SINK, SUMP)}
    wanted |= {queue_name(namespace, actor.name) for actor in setup.actors}
    missing, strange = sorted(wanted - found.queues), sorted(found.queues - wanted)
    if missing:
        text = f"{at}: {', '.join(missing)} missing; `asya up` makes them"
        yield "warn", text, Code.QUEUE_MISSING
    if strange and setup.actors:
        yield "warn", f"{at}: {', '.join(strange)} belong to no actor here"
    skew = "" if found.skew_s is None else f", clock {found.skew_s:+.2f} s"
    yield "ok", f"{at}: {len(found.queues)} queues{skew}"
