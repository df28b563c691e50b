from pathlib import Path

import pytest

from asya.errors import ManifestError
from asya.manifest import actor_from_function, load

HANDLERS = """\
import os
from json import dumps as to_json

raise RuntimeError("the file is never imported")

def embed(payload):
    return payload

async def re_rank(payload):
    return payload

class Model:
    def __init__(self): ...
    def answer(self, payload): ...
    def _hidden(self, payload): ...

class Child(Model):
    pass

later = make_handler()
a, (b, c) = several()
if os.name == "posix":
    def here(payload): ...
else:
    try:
        def there(payload): ...
    except ImportError:
        def fallback(payload): ...
with x:
    def inside(payload): ...
def x_sink(payload): ...
def _(payload): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return tmp_path


def problem_of(target: str) -> str:
    with pytest.raises(ManifestError) as caught:
        actor_from_function(target)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("function", "name", "line"),
    [
        ("embed", "embed", 6),
        ("re_rank", "re-rank", 9),
        ("Model.answer", "answer", 14),
        ("Child.answer", "answer", 17),
        ("later", "later", 20),
        ("c", "c", 21),
        ("here", "here", 23),
        ("there", "there", 26),
        ("fallback", "fallback", 28),
        ("inside", "inside", 30),
        ("to_json", "to-json", 2),
    ],
)
def test_a_function_becomes_an_actor(folder: Path, function: str, name: str, line: int) -> None:
    actor = actor_from_function(f"handlers.py:{function}")
    assert (actor.name, actor.spec.handler) == (name, f"handlers.{function}")
    assert (str(actor.source.file), actor.source.line) == ("handlers.py", line)
    assert (actor.folder, actor.namespace) == (folder.resolve(), "default")
    assert actor.spec.scaling.max_replica_count == 10


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (
            "handler.py:embed",
            "handler.py: no such file (unknown file 'handler.py'; did you mean 'handlers.py'?)",
        ),
        ("no/handlers.py:embed", "no/handlers.py: no such file"),
        ("handlers.py:embd", "handlers.py: unknown function 'embd'; did you mean 'embed'?"),
        ("handlers.py:zzz", "handlers.py: unknown function 'zzz'; there are Child, Model, "),
        ("handlers.py:", "handlers.py: unknown function ''; there are "),
        (
            "handlers.py:Model",
            'handlers.py:12: "Model" is a class; name a method: handlers.py:Model.answer',
        ),
        ("handlers.py:Model.answr", "handlers.py:12: unknown method 'answr'; did you mean"),
        ("handlers.py:Child", "name a method: handlers.py:Child.method"),
        ("handlers.py:embed.x", 'handlers.py:6: "embed" is not a class; write handlers.py:embed'),
        ("handlers.py:x_sink", 'handlers.py:31: "x_sink" makes no actor\'s name'),
        ("handlers.py:_", 'handlers.py:32: "_" makes no actor\'s name'),
        ("handlers.txt:embed", "handlers.txt:embed: expected file.py:function"),
        ("handlers.py", "handlers.py: expected file.py:function, such as handlers.py:embed"),
    ],
)
def test_a_wrong_target_is_told_with_the_nearest_name(
    folder: Path, target: str, problem: str
) -> None:
    assert problem in problem_of(target)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"def embed(:\n", "h.py:1: is not Python: "),
        (b"x = 1\ndef embed(payload)\n", "h.py:2: is not Python: expected ':'"),
        (b"\xff", "h.py:"),
        (b"\0", "h.py:"),
        (b"x = " + b"(" * 10_000, "h.py:"),
    ],
)
def test_a_file_that_is_no_python_is_told_with_its_line(
    folder: Path, content: bytes, problem: str
) -> None:
    (folder / "h.py").write_bytes(content)
    assert problem in problem_of("h.py:embed")


def test_a_file_that_no_import_finds_is_refused(folder: Path) -> None:
    (folder / "my-handlers.py").write_text("def embed(p): ...")
    assert problem_of("my-handlers.py:embed") == (
        'my-handlers.py: "my-handlers" cannot be imported as a module; rename it'
    )
    (folder / "class.py").write_text("def embed(p): ...")
    assert "rename it" in problem_of("class.py:embed")


def test_a_file_in_a_package_is_imported_from_above_it(folder: Path) -> None:
    package = folder / "shop" / "inner"
    package.mkdir(parents=True)
    (folder / "shop" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "handlers.py").write_text("def embed(p): ...")
    actor = actor_from_function("shop/inner/handlers.py:embed")
    assert actor.spec.handler == "shop.inner.handlers.embed"
    assert actor.folder == folder.resolve()


@pytest.mark.parametrize("opening", ["from other import *", "def __getattr__(name): ..."])
def test_names_that_only_an_import_knows_are_taken(folder: Path, opening: str) -> None:
    (folder / "h.py").write_text(opening)
    assert actor_from_function("h.py:anything").spec.handler == "h.anything"


def test_functions_and_manifests_load_together(folder: Path) -> None:
    (folder / "a.yaml").write_text(
        "apiVersion: asya.sh/v1alpha1\nkind: Flow\nmetadata: {name: search}\n"
        "spec: {route: [embed, re-rank]}\n"
    )
    loaded = load(["handlers.py:embed", "a.yaml", "handlers.py:re_rank"], namespace="shop")
    assert [(actor.name, actor.namespace) for actor in loaded.actors] == [
        ("embed", "shop"),
        ("re-rank", "shop"),
    ]
    assert loaded.warnings == []


def test_a_name_may_stand_once_among_functions_and_manifests(folder: Path) -> None:
    (folder / "a.yaml").write_text(
        "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: embed}\n"
        "spec: {handler: h.embed}\n"
    )
    with pytest.raises(ManifestError) as caught:
        load(
            ["a.yaml", "handlers.py:embed", "handlers.py:Model.answer", "handlers.py:Child.answer"]
        )
    assert caught.value.problems == [
        'handlers.py:6: another actor "embed" is defined at a.yaml:1',
        'handlers.py:17: another actor "answer" is defined at handlers.py:14',
    ]
