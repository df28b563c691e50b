"""What a user of Asya needs to test handlers, and an author of a transport or a store to test it.

`play`, `MeshBox`, `assert_route`: a mesh in a box on virtual time (docs/how-to/test-handlers.md).
`transport_contract`, `store_contract`: the kits that every transport and store must pass.
"""

from asya.testing.box import End, MeshBox, SimulatedCrash, assert_route, play
from asya.testing.virtual_time import VirtualClock, VirtualLoop, run_virtual

__all__ = [
    "End",
    "MeshBox",
    "SimulatedCrash",
    "VirtualClock",
    "VirtualLoop",
    "assert_route",
    "play",
    "run_virtual",
]
