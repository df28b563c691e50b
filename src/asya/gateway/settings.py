"""The settings that the HTTP API reads."""

from __future__ import annotations

from typing import Protocol


class GatewaySettings(Protocol):
    """`asya.settings.Settings` has them all."""

    @property
    def host(self) -> str:
        """The address that is bound; on loopback `Host` and `Origin` are checked."""
        ...

    @property
    def body_max_bytes(self) -> int:
        """The largest request body."""
        ...

    @property
    def streams_max(self) -> int:
        """Event streams that may be open at a time."""
        ...
