"""A whole mesh in this process: what is refused, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from asya import manifest
from asya.errors import UsageError
from asya.local import run_file
from asya.local.broker import find_binary
from asya.local.mesh import LocalMesh
from asya.settings import Settings

try:
    find_binary()
except UsageError:
    if os.environ.get("CI"):
        raise
    pytest.skip("there is no nats-server", allow_module_level=True)

Make = Callable[..., LocalMesh]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> Make:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handlers.py").write_text("def double(payload):\n    return payload * 2\n")
    (tmp_path / "double.yaml").write_text(
        "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: double}\n"
        "spec: {handler: handlers.double}\n"
    )

    def made(**settings: Any) -> LocalMesh:
        return LocalMesh(
            manifest.load(["."]),
            Settings(data=tmp_path / "data", port=0, grace_s=5.0, **settings),
            folder=tmp_path,
            environ={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(sys.path)},
            say=lines.append,
        )

    return made


def asked(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


async def test_an_envelope_goes_through_and_a_stop_leaves_nothing(
    make: Make, tmp_path: Path, lines: list[str]
) -> None:
    mesh = make()
    assert mesh.problem() == "the mesh is starting"
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    await mesh.start()
    assert mesh.problem() is None
    found = run_file.find(tmp_path)
    assert found is not None
    assert (found.pid, found.url, found.actors) == (os.getpid(), mesh.url, ("double",))
    body = {"route": ["double"], "payload": 21}
    sent = await asyncio.to_thread(asked, f"{mesh.url}/v1/envelopes", body)
    async with asyncio.timeout(120):
        while True:
            seen = await asyncio.to_thread(asked, f"{mesh.url}/v1/envelopes/{sent['id']}")
            if seen["status"] == "succeeded":
                break
            await asyncio.sleep(0.05)
    assert seen["result"] == 42
    assert [text for text in lines if text.startswith("double: replica ")] != []
    await mesh.stop()
    assert mesh.problem() == "the mesh is stopping"
    assert run_file.find(tmp_path) is None
    left = {each.pid for each in psutil.Process().children(recursive=True)}
    assert left <= before
    # The actor is a field of the line in the mesh's own log.
    own = (tmp_path / "data" / "logs" / "x-mesh.log").read_text()
    assert " | INFO double: replica " in own


async def test_a_start_that_fails_takes_down_what_was_started(make: Make, tmp_path: Path) -> None:
    first = make()
    await first.start()
    second = make()
    with pytest.raises(UsageError):
        await second.start()
    await first.stop()
    # Its lock was given back.
    third = make()
    await third.start()
    await third.stop()


def test_what_this_mesh_cannot_run_is_refused_before_anything_is_made(
    make: Make, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        make(namespace="shop")
    assert not (tmp_path / "data").exists()
