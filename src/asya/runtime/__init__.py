"""Drives the user's handler inside a replica: standard library only, Python 3.9 and later.

`python3 -m asya.runtime` (or the zipapp that `bundle.build_zipapp` makes) dials the sidecar's Unix
socket, loads the handler, says hello, and works on calls until it is told `bye`. Nothing here
imports the rest of the package, and what start-up can do without is imported where it is used.
"""


class UnknownCallKind(Exception):
    """The sidecar asked for a kind of call that this version of the runtime does not know."""
