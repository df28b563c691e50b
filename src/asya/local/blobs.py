"""The blob store of a local mesh, opened or refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from asya.blobs.base import BlobStore
from asya.blobs.claims import Claims
from asya.blobs.folder import FolderBlobs
from asya.blobs.object_store import object_blobs
from asya.codes import Code
from asya.durations import format_duration
from asya.errors import UsageError
from asya.resiliency import Resiliency, delay_s

if TYPE_CHECKING:
    from asya.manifest import AsyncActor
    from asya.settings import Settings


def blob_store(settings: Settings, data: Path) -> BlobStore:
    """The store that the settings name; a folder in the data folder where they name none."""
    where = settings.blob_store
    if isinstance(where, str):
        return object_blobs(where, settings.blobs_kept_s)
    return FolderBlobs((data / "blobs" if where is None else where).absolute())


async def open_claims(
    settings: Settings, data: Path, actors: Iterable[AsyncActor], message_max_bytes: int
) -> Claims:
    """The claim check of a mesh, ready for use.

    Raises:
        UsageError: The store cannot be used, or does not keep blobs long enough for an actor.
    """
    check_retention(actors, settings.blobs_kept_s)
    store = blob_store(settings, data)
    await store.open()
    return Claims(store, settings.blob_threshold_bytes, message_max_bytes=message_max_bytes)


def check_retention(actors: Iterable[AsyncActor], kept_s: float) -> None:
    """Refuse a retention so short that a blob may be gone before the next attempt.

    Each attempt reads the payload, and so resets its age.

    Raises:
        UsageError: With every actor that it is too short for.
    """
    problems = [
        f"{actor.source.file}:{actor.source.line}: actor {actor.name} may wait "
        f"{format_duration(wait_s)} between two attempts, and blobs are kept for "
        f"{format_duration(kept_s)}: raise blobRetention above it"
        for actor in actors
        if (wait_s := longest_wait_s(actor.resiliency())) >= kept_s
    ]
    if problems:
        raise UsageError("\n".join(problems), code=Code.SETTINGS_CONTRADICT)


def longest_wait_s(resiliency: Resiliency) -> float:
    """The longest time between two reads of a payload while an actor works on it, in seconds."""
    waits = [
        delay_s(policy, policy.max_attempts - 1, lambda _, most: most)
        for policy in (*resiliency.policies.values(), resiliency.default)
        if policy.max_attempts > 1
    ]
    return resiliency.actor_timeout_s + max(waits, default=0.0)
