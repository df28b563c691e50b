from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asya import manifest
from asya.codes import Code
from asya.errors import UsageError
from asya.local.launch import launch_of
from asya.manifest import AsyncActor

Make = Callable[[str], AsyncActor]


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)

    def made(spec: str) -> AsyncActor:
        Path("a.yaml").write_text(
            "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: a}\n"
            f"spec: {{handler: h.f{spec}}}\n"
        )
        return manifest.load(["."]).actors[0]

    return made


def test_a_replica_runs_in_the_folder_of_its_manifest(actor: Make, tmp_path: Path) -> None:
    launch = launch_of(actor(""), {"HOME": "/root"}, tmp_path, socket=Path("/run/1.sock"))
    assert launch.folder.samefile(tmp_path)
    assert launch.argv[1:] == ("-P", "-m", "asya.runtime")
    assert launch.environment["ASYA_SOCKET"] == "/run/1.sock"
    assert launch.environment["HOME"] == "/root"
    assert launch.memory_max is None


def test_secrets_come_from_a_file_in_the_folder_of_the_mesh(actor: Make, tmp_path: Path) -> None:
    mesh = tmp_path / "mesh"
    mesh.mkdir()
    (mesh / ".env").write_text("KEY=secret")
    asks = actor(", secretRefs: [{secretName: s, keys: [{key: k, envVar: KEY}]}]")
    launch = launch_of(asks, {}, mesh, socket=Path("s"))
    assert launch.environment["KEY"] == "secret"


def test_a_memory_limit_is_read_or_named(actor: Make, tmp_path: Path) -> None:
    limited = actor(", resources: {limits: {memory: 64Mi}}")
    assert launch_of(limited, {}, tmp_path, socket=Path("s")).memory_max == 64 * 2**20
    with pytest.raises(UsageError, match=r"a\.yaml:1: actor a: .*'lots'") as caught:
        launch_of(actor(", resources: {limits: {memory: lots}}"), {}, tmp_path, socket=Path("s"))
    assert caught.value.code == Code.MEMORY_LIMIT
