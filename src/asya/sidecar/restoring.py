"""Payloads on their way from the blob store to a replica.

An envelope whose payload was checked in waits in line as small as it came. Only when a replica is
free for it is the payload read, off the event loop, while the replica is kept for it and the lease
goes on; what is read and not worked off is bounded in bytes. A retry reads it again: the reference
travels, not the bytes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from asya.blobs.claims import Claims, reference
from asya.envelope import Envelope
from asya.errors import BlobMissing, BlobUnavailable
from asya.sidecar.outcome import Canceled, Expired, Outcome, Unreadable, error_info

if TYPE_CHECKING:
    from asya.sidecar.replica import Replica
    from asya.sidecar.sidecar import Sidecar
    from asya.sidecar.work import Work

log = logging.getLogger(__name__)

RESTORED_MAX_BYTES: Final = 128 * 1024 * 1024
"""Restored payloads that one sidecar holds; a larger one is held alone."""

RETRY_FIRST_S: Final = 0.05
RETRY_MOST_S: Final = 2.0
"""Bounds of the back-off while the blob store does not answer; the envelope waits meanwhile."""


class Restoring:
    """Reads payloads for one sidecar.

    Attributes:
        held_bytes: Read, or being read, and not worked off.
    """

    def __init__(self, sidecar: Sidecar, claims: Claims) -> None:
        self.held_bytes = 0
        self._sidecar = sidecar
        self._claims = claims

    def has_room(self, work: Work) -> bool:
        """Whether the payload of this one may be read now; True where it came along."""
        ref = work.blob
        return (
            ref is None or not self.held_bytes or (self.held_bytes + ref.size <= RESTORED_MAX_BYTES)
        )

    def begin(self, work: Work, replica: Replica) -> None:
        """Read the payload, then give the work to this replica, which is kept for it."""
        try:
            ref = reference(work.envelope)
            assert ref is not None
        except BlobMissing as error:
            work.replica = None
            self._sidecar.finish_unread(work, Unreadable(error_info(error)))
            return
        replica.expected += 1
        work.restored_bytes = ref.size
        self.held_bytes += ref.size
        self._sidecar.in_background(self._read(work, replica))

    def release(self, work: Work) -> None:
        """The call is over: its payload is not held any more."""
        self.held_bytes -= work.restored_bytes
        work.restored_bytes = 0

    async def _read(self, work: Work, replica: Replica) -> None:
        sidecar = self._sidecar
        found: Envelope | Outcome | BlobUnavailable = await self._found(work)
        replica.expected -= 1
        if isinstance(found, BlobUnavailable):
            await self._try_again(work, replica, found)
            return
        work.restore_delay_s = 0.0
        if work.canceled:
            found = Canceled()
        elif _is_late(work, sidecar):
            found = Expired()
        if not isinstance(found, Envelope):
            work.replica = None
            self.release(work)
            sidecar.finish_unread(work, found)
        elif sidecar.draining or not replica.open:
            work.replica = None
            sidecar.put_back(work)
        else:
            work.call(replica, found)
            return
        sidecar.replica_freed(replica)

    async def _found(self, work: Work) -> Envelope | Unreadable | BlobUnavailable:
        try:
            return await self._claims.restore(work.envelope)
        except BlobMissing as error:
            return Unreadable(error_info(error))
        except BlobUnavailable as error:
            return error

    async def _try_again(self, work: Work, replica: Replica, error: BlobUnavailable) -> None:
        """Others may have the replica meanwhile."""
        sidecar = self._sidecar
        about = sidecar.about(work.envelope)
        log.warning("cannot read a payload yet: %s", error, extra=about)
        work.replica = None
        self.release(work)
        sidecar.replica_freed(replica)
        work.restore_delay_s = min(max(RETRY_FIRST_S, work.restore_delay_s * 2), RETRY_MOST_S)
        await asyncio.sleep(work.restore_delay_s)
        if work.canceled:
            sidecar.finish_unread(work, Canceled())
        elif _is_late(work, sidecar):
            sidecar.finish_unread(work, Expired())
        else:
            sidecar.put_back(work)
            sidecar.dispatch()


def _is_late(work: Work, sidecar: Sidecar) -> bool:
    deadline = work.envelope.deadline
    return deadline is not None and sidecar.now() >= deadline
