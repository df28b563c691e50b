"""How the replicas of an actor are started: program, folder, environment, limit.

For the mesh, and for `asya run`, so that a handler that runs by hand runs as it does in the mesh.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from asya.codes import Code
from asya.errors import UsageError
from asya.local.environment import memory_bytes, read_dotenv, replica_environment
from asya.local.process import Launch

if TYPE_CHECKING:
    from asya.manifest import AsyncActor


def launch_of(
    actor: AsyncActor, environ: Mapping[str, str], folder: Path, *, socket: Path
) -> Launch:
    """How an actor's replicas are started.

    Args:
        actor: The actor.
        environ: The environment that they inherit.
        folder: That of the mesh, where a `.env` file may be.
        socket: Where the sidecar listens.

    Raises:
        UsageError: A secret is missing, a `.env` file or the memory limit cannot be read.
    """
    dotenv = read_dotenv([actor.folder, folder])
    environment = replica_environment(actor, environ, dotenv, socket=socket, path=[actor.folder])
    limit = actor.spec.resources.get("limits", {}).get("memory")
    try:
        memory_max = None if limit is None else memory_bytes(limit)
    except ValueError as error:
        raise UsageError(
            f"{actor.source.file}:{actor.source.line}: actor {actor.name}: "
            f"resources.limits.memory: {error}",
            code=Code.MEMORY_LIMIT,
        ) from error
    return Launch(
        # -P: the working folder is no place to import the runtime from.
        argv=(sys.executable, "-P", "-m", "asya.runtime"),
        folder=actor.folder,
        environment=environment,
        memory_max=memory_max,
    )
