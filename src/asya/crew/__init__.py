"""The system's own actors: where envelopes end.

`x-sink` stores results, `x-sump` keeps dead letters. Both run inside the mesh's process: sidecars
hand envelopes over directly, and each also consumes a queue of its own, for what other processes
send and for what could not be stored at once.
"""

from asya.crew.consumer import EndConsumer
from asya.crew.sink import Sink
from asya.crew.sump import Sump

__all__ = ["EndConsumer", "Sink", "Sump"]
