"""The brokers: the program that `asya up` would start, and those that addresses name."""

from __future__ import annotations

import asyncio
import re
import subprocess
from typing import TYPE_CHECKING, Final

from asya.addresses import TITLES
from asya.codes import Code
from asya.envelope import END_ACTORS, queue_name
from asya.errors import AsyaError, how_to_install
from asya.local.doctor.checks import Seen
from asya.local.doctor.set_up import SetUp
from asya.settings import no_address

if TYPE_CHECKING:
    from asya.local.transports import Use
    from asya.transports.base import Inspection

SERVER_MIN: Final = (2, 12)
ANSWER_S: Final = 1.5
"""How long a program may take to say its version."""

BROKERS_S: Final = 10.0
"""How long the brokers may take, beside one another; far ones need several round trips."""

SKEW_MAX_S: Final = 2.0
"""Further apart, clocks make delays and deadlines visibly wrong."""


def check_program(setup: SetUp) -> Seen:
    """The nats-server program and its version."""
    from asya.local.broker import find_binary
    from asya.local.transports import EMBEDDED

    if not any(use.transport == EMBEDDED and use.address is None for use in _uses(setup)):
        yield "skip", "not needed: the settings name a broker"
        return

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
        text = f"{program} is {version[0]}; 2.12 is needed; {how_to_install('local')} brings it"
        yield "fail", text, Code.BROKER_OUTDATED
    else:
        yield "ok", f"nats-server {version[0].removeprefix('v')} ({program})"


def check_broker(setup: SetUp) -> Seen:
    """Every broker that an address names: reachable, and with the queues it should have."""
    uses = _uses(setup)
    for found in asyncio.run(_look_at_all(uses, setup)):
        yield from found


def _uses(setup: SetUp) -> list[Use]:
    from asya.local.transports import brokers_in_use

    return brokers_in_use(setup.actors, setup.settings)


async def _look_at_all(uses: list[Use], setup: SetUp) -> list[Seen]:
    return await asyncio.gather(*(_look_at(use, setup) for use in uses))


async def _look_at(use: Use, setup: SetUp) -> Seen:
    """What is to be said of one broker; nothing of the others is lost by what is wrong here."""
    from asya.local.transports import EMBEDDED
    from asya.transports.opening import open_transport

    settings = setup.settings
    if use.address is None:
        if use.transport == EMBEDDED:
            return iter([("skip", "`asya up` starts one of its own")])
        return iter([("fail", no_address(use.transport), Code.ADDRESS_MISSING)])
    at = f"{TITLES[use.transport]} at {use.address.where}"
    try:
        transport = open_transport(use.address, settings.namespace, lease_s=settings.lease_s)
        async with asyncio.timeout(BROKERS_S - 1):
            found = await transport.inspect(use.queues)
    except AsyaError as error:
        return iter([("fail", str(one), one.code) for one in error.complaints()])
    except TimeoutError:
        text = f"{at} gave no answer within {BROKERS_S - 1:g} s"
        return iter([("fail", text, Code.TRANSPORT_UNAVAILABLE)])
    return _judge(found, use, setup)


def _judge(found: Inspection, use: Use, setup: SetUp) -> Seen:
    namespace, at = setup.settings.namespace, found.broker
    if found.skew_s is not None and abs(found.skew_s) > SKEW_MAX_S:
        text = f"{at}: its clock is {found.skew_s:+.1f} s from ours; synchronise both"
        yield "fail", text, Code.CLOCK_WRONG
    for finding in found.findings:
        yield "fail" if finding.fatal else "warn", f"{at}: {finding.text}", finding.code
    if any(finding.fatal for finding in found.findings):
        return
    if not found.queues:
        yield "ok", f"{at}; nothing of the namespace {namespace} yet, `asya up` makes it"
        return
    wanted = set(use.queues)
    ends = {queue_name(namespace, name) for name in END_ACTORS}
    elsewhere = {queue_name(namespace, actor.name) for actor in setup.actors} - wanted
    missing, strange = sorted(wanted - found.queues), sorted(found.queues - wanted - ends)
    if missing:
        text = f"{at}: {', '.join(missing)} missing; `asya up` makes them"
        yield "warn", text, Code.QUEUE_MISSING
    for names, what in (
        (set(strange) - elsewhere, "belong to no actor here"),
        (set(strange) & elsewhere, "belong to actors that are on another broker now"),
    ):
        if names and setup.actors:
            yield "warn", f"{at}: {', '.join(sorted(names))} {what}"
    skew = "" if found.skew_s is None else f", clock {found.skew_s:+.2f} s"
    yield "ok", f"{at}: {len(found.queues)} queues{skew}"
