"""What our queues on SQS are called and how they are made. Pure: values in, values out.

A queue's name is that of the mesh, with `.fifo` behind it where SQS asks for that. Every queue
but the dead letters' own sends what was received `RECEIVES_MAX` times there: that is a backstop
for what no sidecar could bury itself, never the policy. Called by `asya.transports.sqs.transport`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from asya.addresses import Address
from asya.transports.sqs.messages import REQUEST_MAX_BYTES

NAME_MAX: Final = 80
RECEIVES_MAX: Final = 100
"""After so many receives the broker buries a message by itself; policy does it after a few."""
RETENTION_S: Final = 14 * 86_400
"""The longest that SQS keeps a message."""
TAG: Final = "asya-namespace"
FIFO: Final = ".fifo"


@dataclass(frozen=True, slots=True)
class Site:
    """Where the queues of a namespace are, and of which kind.

    Attributes:
        namespace: The mesh's.
        region: AWS's name for it.
        endpoint: Another server than Amazon's, as a URL; else empty.
        account: Whose queues they are, if not ours; else empty.
        fifo: They are FIFO queues.
        groups: Their messages have groups.
    """

    namespace: str
    region: str
    endpoint: str
    account: str
    fifo: bool
    groups: bool

    @classmethod
    def of(cls, address: Address, namespace: str) -> Site:
        """That of an address with its options."""
        fifo = address.flag("fifo")
        return cls(
            namespace,
            address.host,
            address.text("endpoint"),
            address.text("account"),
            fifo,
            groups=fifo or address.flag("fair"),
        )


_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")


def prefix(namespace: str) -> str:
    """What the names of a namespace's queues begin with."""
    return f"asya-{namespace}-"


def dead_letters(namespace: str) -> str:
    """The queue that the broker sends to what it gives up."""
    return f"{prefix(namespace)}x-sump"


def unfit(queue: str, *, fifo: bool) -> str | None:
    """Why SQS can have no queue of this name; None if it can."""
    longest = NAME_MAX - (len(FIFO) if fifo else 0)
    if len(queue) > longest:
        return (
            f"the queue's name {queue} has {len(queue)} characters and SQS takes {longest}; "
            "shorten the actor's name or the namespace's"
        )
    if _NAME.fullmatch(queue) is None:
        return f"{queue!r} is no name for a queue in SQS, which takes letters, digits, - and _"
    return None


def broker_name(queue: str, *, fifo: bool) -> str:
    """What the queue is called at SQS."""
    return queue + FIFO if fifo else queue


def our_name(broker: str, *, fifo: bool) -> str | None:
    """What a queue at SQS is called here; None for one of the other kind."""
    if broker.endswith(FIFO) != fifo:
        return None
    return broker.removesuffix(FIFO)


def attributes(*, fifo: bool, dead_letters_arn: str | None) -> dict[str, str]:
    """Of a queue that is made; None for the dead letters' queue itself."""
    wanted = {
        "MaximumMessageSize": str(REQUEST_MAX_BYTES),
        "MessageRetentionPeriod": str(RETENTION_S),
    }
    if fifo:
        # Throughput and duplicates are counted per group, which is a run of a flow.
        wanted |= {
            "FifoQueue": "true",
            "DeduplicationScope": "messageGroup",
            "FifoThroughputLimit": "perMessageGroupId",
        }
    if dead_letters_arn is not None:
        policy = {"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": RECEIVES_MAX}
        wanted["RedrivePolicy"] = json.dumps(policy)
    return wanted


def differences(found: Mapping[str, str], *, fifo: bool, sump: str | None) -> list[str]:
    """What differs from how we would make the queue, each with what it means.

    Args:
        found: The queue's attributes.
        fifo: Whether queues are FIFO.
        sump: The dead letters' queue at SQS; None where the queue is that one.
    """
    texts = []
    size = int(found.get("MaximumMessageSize", REQUEST_MAX_BYTES))
    if size < REQUEST_MAX_BYTES:
        texts.append(
            f"MaximumMessageSize is {size}, not {REQUEST_MAX_BYTES}: larger messages are refused"
        )
    kept_s = int(found.get("MessageRetentionPeriod", RETENTION_S))
    if kept_s < RETENTION_S:
        texts.append(
            f"MessageRetentionPeriod is {kept_s}, not {RETENTION_S}: "
            f"what waits longer than {kept_s} s is lost"
        )
    held_s = int(found.get("DelaySeconds", 0))
    if held_s:
        texts.append(f"DelaySeconds is {held_s}, not 0: every message comes so much later")
    scope = found.get("DeduplicationScope", "messageGroup")
    if fifo and scope != "messageGroup":
        texts.append(f"DeduplicationScope is {scope}, not messageGroup: fewer messages a second")
    if sump is not None:
        texts += _redrive_differences(found.get("RedrivePolicy"), sump)
    return texts


def _redrive_differences(policy: str | None, sump: str) -> list[str]:
    if not policy:
        text = "a message that no sidecar can take goes round until its retention ends"
        return [f"there is no RedrivePolicy to {sump}: {text}"]
    found = json.loads(policy)
    texts = []
    target = str(found.get("deadLetterTargetArn", "")).rpartition(":")[2]
    if target != sump:
        texts.append(f"the RedrivePolicy's target is {target}, not {sump}")
    receives = int(found.get("maxReceiveCount", RECEIVES_MAX))
    if receives < 20:
        texts.append(
            f"the RedrivePolicy's maxReceiveCount is {receives}, not {RECEIVES_MAX}: the broker "
            "may bury messages before the mesh does"
        )
    return texts


def keda_trigger(
    queue: str, target: int, *, region: str, endpoint: str, account: str, fifo: bool
) -> dict[str, Any]:
    """KEDA's `aws-sqs-queue`; takes a bare name where the account is not known."""
    name = broker_name(queue, fifo=fifo)
    url = name
    if account:
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        server = endpoint.rstrip("/") or f"https://sqs.{region}.{domain}"
        url = f"{server}/{account}/{name}"
    metadata = {
        "queueURL": url,
        "awsRegion": region,
        "queueLength": str(target),
        "activationQueueLength": "0",
        "scaleOnInFlight": "true",
        "scaleOnDelayed": "false",
    }
    if endpoint:
        metadata["awsEndpoint"] = endpoint
    return {"type": "aws-sqs-queue", "metadata": metadata}
