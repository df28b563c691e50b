"""Finding and making handlers, and the text of every way in which it fails."""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asya.runtime.loading import (
    Handler,
    HandlerError,
    argument_problem,
    extend_path,
    is_async,
    load,
)

SOURCE = """
import functools
def plain(p): return p
async def asynchronous(p): return p
async def stream(p): yield p
def two(a, b): ...
def keyword(p, *, needed): ...
def none(): ...
def anything(*args): ...
def default(p=1, more=2): ...
value = 5
part = functools.partial(two, 1)
bad_part = functools.partial(two)
class Shop:
    def __init__(self, name="shop"): self.name = name
    def greet(self, p): return self.name
    async def later(self, p): return self.name
    def nothing(self): ...
    @staticmethod
    def fixed(p): return p
    @classmethod
    def kind(cls, p): return cls.__name__
    def __call__(self, p): return p
class Needy:
    def __init__(self, url): ...
    def greet(self, p): ...
class Broken:
    def __init__(self): raise RuntimeError("no model")
    def greet(self, p): ...
instance = Shop("made")
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "wares.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def f(p): ...\nimport surely_missing")
    (tmp_path / "typo.py").write_text("def f(p:\n")
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("def f(p): return 'inner'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    extend_path([])
    yield tmp_path
    for name in ("wares", "broken", "typo", "pack", "pack.inner"):
        sys.modules.pop(name, None)


def find(name: str) -> Handler:
    return load(name, lambda kind, in_loop: kind())


@pytest.mark.parametrize(
    ("name", "result", "asynchronous"),
    [
        ("wares.plain", "p", False),
        ("wares.anything", None, False),
        ("wares.default", None, False),
        ("wares.part", None, False),
        ("wares.instance", "p", False),
        ("wares.instance.greet", "made", False),
        ("wares.Shop.greet", "shop", False),
        ("wares.Shop.fixed", "p", False),
        ("wares.Shop.kind", "Shop", False),
        ("pack.inner.f", "inner", False),
        ("wares.asynchronous", ..., True),
        ("wares.stream", ..., True),
        ("wares.Shop.later", ..., True),
    ],
)
def test_names_of_handlers(name: str, result: Any, asynchronous: bool) -> None:
    handler = find(name)

    assert handler.is_async is asynchronous
    if result is not ...:
        assert handler.call("p") == result


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("plain", "must be module.function", "BadName"),
        ("", "must be module.function", "BadName"),
        ("wares.", "must be module.function", "BadName"),
        ("wa-res.plain", "must be module.function", "BadName"),
        ("waers.plain", "no module 'waers'; did you mean 'wares'?", "ModuleMissing"),
        ("pack.other.f", "'pack' has no 'other'", "HandlerMissing"),
        (
            "wares.plian",
            "the module 'wares' has no 'plian'; did you mean 'plain'?",
            "HandlerMissing",
        ),
        (
            "wares.Shop.great",
            "the class 'Shop' has no 'great'; did you mean 'greet'?",
            "HandlerMissing",
        ),
        (
            "wares.Shop",
            "is a class; name one of its methods, such as wares.Shop.greet",
            "HandlerMissing",
        ),
        ("wares.value", "is of type int, which cannot be called", "HandlerMissing"),
        ("wares.none", "takes no argument", "BadSignature"),
        ("wares.Shop.nothing", "takes no argument", "BadSignature"),
        ("wares.two", "needs 2 arguments (a, b)", "BadSignature"),
        ("wares.bad_part", "cannot be called with one argument", "BadSignature"),
        ("wares.keyword", "needs the keyword 'needed'", "BadSignature"),
        ("wares.Needy.greet", "cannot be made with default arguments: TypeError", "ClassFailed"),
        ("wares.Broken.greet", "RuntimeError: no model", "ClassFailed"),
        ("broken.f", "ModuleNotFoundError: No module named 'surely_missing'", "ImportFailed"),
        ("typo.f", "SyntaxError", "ImportFailed"),
    ],
)
def test_what_is_no_handler(name: str, text: str, kind: str) -> None:
    with pytest.raises(HandlerError) as raised:
        find(name)
    assert text in str(raised.value)
    assert type(raised.value).__name__ == kind


def test_the_users_error_is_the_cause() -> None:
    with pytest.raises(HandlerError) as raised:
        find("broken.f")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_the_class_of_an_async_method_is_made_in_the_loop() -> None:
    asked = []

    def make(kind: Callable[[], Any], in_loop: bool) -> Any:
        asked.append(in_loop)
        return kind()

    load("wares.Shop.later", make)
    load("wares.Shop.greet", make)

    assert asked == [True, False]


def test_the_folders_come_first_and_once(modules: Path) -> None:
    extend_path([str(modules / "pack"), str(modules)])
    extend_path([str(modules / "pack"), str(modules)])

    assert sys.path[:2] == [str(modules / "pack"), str(modules)]
    assert sys.path.count(str(modules)) == 1


def test_functions_written_in_c_are_taken_on_trust() -> None:
    assert argument_problem(len) is None
    assert argument_problem(dict.fromkeys) is None
    assert not is_async(len)


def test_partials_of_coroutine_functions_are_async() -> None:
    async def work(a: Any, b: Any) -> None: ...

    assert is_async(functools.partial(functools.partial(work, 1)))
