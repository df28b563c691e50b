"""The zipapp, run by `python3 -I` on every supported Python that this machine has."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asya.runtime.bundle import build_zipapp

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Starter


HANDLERS = """
import asyncio, dataclasses, functools, typing
def value(p): return p
async def coroutine(p):
    await asyncio.sleep(0)
    return p
def generator(p):
    yield "SET", ".route.next[:0]", ["first"]
    yield p
async def agenerator(p):
    yield "FLY", {"t": 1}
    yield p
def awaitable(p): return coroutine(p)
part = functools.partial(lambda more, p: p, 1)
class Shop:
    def __call__(self, p): return p
    async def method(self, p): return p
    def close(self): print("closed")
instance = Shop()
@dataclasses.dataclass
class Query:
    a: typing.List[int]
    b: typing.Optional[str] = None
def typed(q: Query): return q.__dict__ and q
def failing(p): raise ValueError("as meant")
"""
ALL = ["value", "coroutine", "generator", "agenerator", "awaitable", "part", "instance"]
ALL += ["Shop.method", "typed", "failing"]


def pythons() -> list[Any]:
    found = {sys.version_info[:2]: Path(sys.executable)}
    for python in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python")):
        version = re.search(r"versions/3\.(\d+)\.", str(python))
        if version and 9 <= int(version[1]) <= 13:
            found.setdefault((3, int(version[1])), python)
    for minor in range(9, 14):
        path = shutil.which(f"python3.{minor}")
        if path and "shims" not in path:
            found.setdefault((3, minor), Path(path))
    return [pytest.param(path, id=f"3.{minor}") for (_, minor), path in sorted(found.items())]


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zipapp(tmp_path_factory.mktemp("z") / "asya-runtime.pyz")


@pytest.mark.parametrize("python", pythons())
def test_the_zipapp_drives_every_kind_of_handler(
    start: "Starter", zipapp: Path, python: Path
) -> None:
    for name in ALL:
        command = [str(python), "-I", "-S", str(zipapp)]
        replica = start(HANDLERS, f"shop.{name}", command=command)

        answer = replica.ask(b'{"a":[1]}')

        if name == "failing":
            assert answer[0][0]["error"]["type"] == "ValueError"
            assert "asya" not in answer[0][0]["error"]["traceback"]
        else:
            expected = b'{"a":[1],"b":null}' if name == "typed" else b'{"a":[1]}'
            assert answer[-2][1] == [expected], name
            assert answer[-1][0]["frames"] == 1
            assert (answer[-2][0].get("next") == ["first", "b", "c"]) is (name == "generator")
        assert replica.bye() == 0
        assert (
            replica.printed() == ("closed\n" if name == "Shop.method" else "") or name == "failing"
        )


def test_the_same_sources_make_the_same_bytes(tmp_path: Path, zipapp: Path) -> None:
    other = build_zipapp(tmp_path / "other.pyz")

    assert other.read_bytes() == zipapp.read_bytes()
    assert os.access(other, os.X_OK)
    assert [file.name for file in tmp_path.iterdir()] == ["other.pyz"]


def test_the_zipapp_holds_nothing_of_the_rest_of_the_package(tmp_path: Path, zipapp: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import asya.runtime.serve, asya.runtime.once;"
        "print(*sorted(m for m in sys.modules if m.startswith('asya') and 'runtime' not in m))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(zipapp)],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )

    assert done.stdout.split() == ["asya"]


def test_start_up_leaves_out_what_it_can_do_without() -> None:
    code = (
        "import sys, asya.runtime.serve\n"
        "print(*{'asyncio', 'inspect', 'traceback', 'dataclasses', 'typing', 'argparse', 'uuid'}"
        " & set(sys.modules))"
    )
    source = Path(__file__).parents[3] / "src"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )

    assert done.stdout.split() == []
