"""`asya up`: the whole mesh on this machine, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from asya.cli.setting_flags import takes_settings
from asya.codes import Code
from asya.errors import ManifestError, UsageError

if TYPE_CHECKING:
    from asya.local.mesh import LocalMesh
    from asya.local.reload import Reloading
    from asya.manifest import Manifests

CRASH_VARIABLE: Final = "ASYA_TEST_CRASH"

NAMES_MAX: Final = 20
"""Actors and flows that the banner names."""

FILES_MAX: Final = 16_384
"""Descriptors that the mesh may open, where the machine allows it."""


@takes_settings
def up(
    flags: Mapping[str, Any],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]…",
            help="Manifest files, folders, or file.py:function. Without: this folder.",
        ),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Replace replicas when their code changes on the disk.")
    ] = False,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="As --reload; the actor's last envelope then runs again through the new code.",
        ),
    ] = False,
) -> None:
    """Run the whole mesh on this machine.

    Broker, sidecars, gateway, and replicas from zero to as many as the queues ask for. Ctrl-C or
    SIGTERM stops it in order; the same again ends the replicas at once. Nothing that was accepted
    is lost either way: the next `asya up` on the same data folder goes on with it.
    """
    began_s = time.monotonic()
    run_mesh(
        paths or [], flags, os.environ, began_s=began_s, reload=reload or replay, replay=replay
    )


def run_mesh(
    paths: Sequence[str],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    began_s: float,
    reload: bool = False,
    replay: bool = False,
) -> None:
    """Run a mesh in this process until a signal stops it.

    Raises:
        UsageError: Something that the user gave cannot be used; nothing was started, or all of it
            was stopped again.
    """
    from asya import settings

    folder = project_folder(paths)
    found = settings.read(folder, environ, flags)
    manifests = load(paths, found.namespace)
    if CRASH_VARIABLE in environ:
        from asya import crashpoints

        crashpoints.arm_from(environ[CRASH_VARIABLE])
    from asya.local.mesh import LocalMesh

    _allow_many_files()

    async def main() -> None:
        mesh = LocalMesh(
            manifests,
            found,
            folder=folder,
            environ=environ,
            say=_say,
            reloading=_reloading(paths, found.namespace, replay=replay) if reload else None,
        )
        await _serve(mesh, manifests, began_s)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


def _reloading(paths: Sequence[str], namespace: str, *, replay: bool) -> Reloading:
    from asya import manifest
    from asya.local.reload import Reloading

    return Reloading(lambda: manifest.load(paths or ["."], namespace=namespace), replay)


def _allow_many_files() -> None:
    """An actor needs a few descriptors; the usual limit of 1024 is too low for a thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def project_folder(paths: Sequence[str]) -> Path:
    """The folder of settings and data: that of the one PATH with an asya.yaml, else this one."""
    from asya.settings import SETTINGS_FILE

    here = Path.cwd()
    if len(paths) == 1 and not (here / SETTINGS_FILE).is_file():
        given = Path(paths[0])
        if (given / SETTINGS_FILE).is_file():
            return given.absolute()
    return here


def load(paths: Sequence[str], namespace: str) -> Manifests:
    """The manifests; what may surprise is printed.

    Raises:
        ManifestError: They cannot be used, or there are none.
    """
    from asya import manifest

    try:
        manifests = manifest.load(paths or ["."], namespace=namespace)
    except ManifestError as error:
        if not paths and not any(Path().glob("*.y*ml")):
            raise UsageError(
                f"{error}\nmake a project with `asya init NAME`, "
                "or name what to run: asya up PATH, asya up handlers.py:function",
                code=Code.MANIFEST_MISSING,
            ) from error
        raise
    for line in (*manifests.notes, *manifests.warnings):
        _say(f"warning: {line}")
    return manifests


async def _serve(mesh: LocalMesh, manifests: Manifests, began_s: float) -> None:
    from asya.local import notices

    stop = _stop_on_signals(mesh)
    logging.basicConfig(level=logging.WARNING, handlers=[mesh.log_handler()], force=True)
    logging.captureWarnings(capture=True)
    starting = asyncio.ensure_future(mesh.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
        _banner(mesh, manifests, time.monotonic() - began_s)
        await stopping
        mesh.tell(notices.Stopping())
        await mesh.stop()
    stopping.cancel()
    _say("stopped")


def _stop_on_signals(mesh: LocalMesh) -> asyncio.Event:
    from asya.local import notices

    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            mesh.tell(notices.EndingNow())
            mesh.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    return stop


def _banner(mesh: LocalMesh, manifests: Manifests, took_s: float) -> None:
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    rows = {
        **({"brokers": "; ".join(mesh.brokers)} if mesh.brokers else {}),
        "actors": _some(list(mesh.actors)),
        **entries(list(mesh.flows), [each.name for each in manifests.schedules]),
        "data": str(mesh.data),
    }
    _write(f"{bold}asya mesh at {mesh.url}{plain}  (ready in {took_s:.2f} s, Ctrl-C stops)")
    width = max(map(len, rows))
    for name, value in rows.items():
        _write(f"  {name:<{width}} {value}")


def entries(flows: Sequence[str], schedules: Sequence[str]) -> dict[str, str]:
    """Rows of the banner on what sends envelopes into the mesh."""
    rows = {"flows": _some(flows) or "none; send to actors by name: asya call ACTOR JSON"}
    if schedules:
        rows["schedules"] = _some(schedules)
    return rows


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_MAX])
    return shown + (f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else "")


def _say(text: str) -> None:
    dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    _write(f"{dim}{time.strftime('%H:%M:%S')}{plain} {text}")


def _write(text: str) -> None:
    # The terminal may be gone; the mesh's own log has the line too.
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
