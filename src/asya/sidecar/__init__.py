"""The loop between a queue and the runtimes that serve it.

`decide` (pure) holds every rule; `Sidecar` performs what it returns; `Replica` speaks to one
runtime. Nothing here decodes a payload.
"""

from asya.sidecar.cancels import Cancels
from asya.sidecar.sidecar import EndActor, Sidecar, SidecarConfig
from asya.sidecar.snapshot import ReplicaSnapshot, SidecarSnapshot

__all__ = ["Cancels", "EndActor", "ReplicaSnapshot", "Sidecar", "SidecarConfig", "SidecarSnapshot"]
