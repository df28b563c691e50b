"""Advancing a route: where an envelope stands after a hop. Pure, standard library only.

The sidecar's `decide` uses it for every hop, and so can a runtime that passes an envelope on to an
actor in the same process. Lives here because the runtime may import nothing else of the mesh.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence, Tuple

PREV_MAX = 64
"""Hops kept in `prev`, the newest. A test holds it to `asya.envelope.PREV_MAX`."""

END = "x-sink"
"""Where a route ends by itself."""


def advance(
    prev: Sequence[str], curr: str, upcoming: Sequence[str]
) -> Tuple[List[str], str, List[str]]:
    """The route after the hop at `curr`, as (prev, curr, next).

    Args:
        prev: Hops made before this one, oldest first.
        curr: The actor that is done.
        upcoming: Hops still to make. If empty, the new `curr` is `END`.
    """
    made = [*prev, curr][-PREV_MAX:]
    if not upcoming:
        return made, END, []
    return made, upcoming[0], list(upcoming[1:])
