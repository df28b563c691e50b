"""An actor without a manifest: `handlers.py:embed`.

The file is parsed, never imported. Called by `loading` for targets of that form.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from asya.codes import Code
from asya.document import quoted, unknown
from asya.envelope import NAME_MAX, is_actor_name
from asya.errors import Complaint, ManifestError
from asya.manifest.model import API_VERSION, SYSTEM_NAMES, AsyncActor, Source

_TARGET: Final = re.compile(r"(?P<file>.+\.py):(?P<function>[^/\\]*)")


def _unusable(text: str) -> ManifestError:
    return ManifestError([Complaint(text, Code.FUNCTION_UNUSABLE)])


def is_target(text: str) -> bool:
    """Whether this is `file.py:function`, and no path."""
    return _TARGET.fullmatch(text) is not None


def actor_from_function(target: str, *, namespace: str = "default") -> AsyncActor:
    """The actor whose handler is `file.py:function` or `file.py:Class.method`.

    Its name is the function's, with hyphens for underscores; everything else is default.

    Raises:
        ManifestError: No such file or function, or a name that no actor can have.
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        raise _unusable(f"{target}: expected file.py:function, such as handlers.py:embed")
    file, function = Path(match["file"]), match["function"]
    tree = _parse(file)
    line = _line_of(tree, file, function)
    module, folder = _module(file)
    actor = AsyncActor.model_validate(
        {
            "apiVersion": API_VERSION,
            "kind": "AsyncActor",
            "metadata": {"name": _actor_name(file, line, function)},
            "spec": {"handler": f"{module}.{function}"},
        }
    )
    actor.place(Source(file, line), folder, namespace)
    return actor


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except FileNotFoundError:
        near = sorted(path.name for path in file.parent.glob("*.py"))
        hint = f" ({unknown('file', file.name, near)})" if near else ""
        raise _unusable(f"{file}: no such file{hint}") from None
    except OSError as error:
        raise _unusable(f"{file}: cannot be read: {error.strerror or error}") from error
    except SyntaxError as error:
        raise _unusable(f"{file}:{error.lineno or 0}: is not Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _unusable(f"{file}: is not Python: {error}") from error


def _module(file: Path) -> tuple[str, Path]:
    """The module's dotted name, and the folder that it is imported from."""
    path = file.resolve()
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        parts.insert(0, folder.name)
        folder = folder.parent
    for part in parts:
        if not part.isidentifier() or keyword.iskeyword(part):
            raise _unusable(f"{file}: {quoted(part)} cannot be imported as a module; rename it")
    return ".".join(parts), folder


def _line_of(tree: ast.Module, file: Path, function: str) -> int:
    """The line of the function's definition.

    Raises:
        ManifestError: There is none; the nearest name is given.
    """
    first, _, method = function.partition(".")
    names = dict(_names(tree.body))
    open_ended = "*" in names or "__getattr__" in names
    if first not in names:
        if open_ended and first.isidentifier():
            return 1
        known = [name for name, node in names.items() if _callable(node)]
        raise _unusable(f"{file}: {unknown('function', first, known)}")
    node = names[first]
    if not isinstance(node, ast.ClassDef):
        if method:
            text = f"{quoted(first)} is not a class; write {file}:{first}"
            raise _unusable(f"{file}:{node.lineno}: {text}")
        return node.lineno
    methods = dict(_names(node.body))
    if method in methods:
        return methods[method].lineno
    if method.isidentifier() and node.bases:
        return node.lineno
    public = [name for name in methods if not name.startswith("_") or name == "__call__"]
    if not method:
        example = public[0] if public else "method"
        text = f"{quoted(first)} is a class; name a method: {file}:{first}.{example}"
        raise _unusable(f"{file}:{node.lineno}: {text}")
    raise _unusable(f"{file}:{node.lineno}: {unknown('method', method, public)}")


def _callable(node: ast.stmt) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


def _names(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """What these statements define, also inside `if`, `try` and `with`; `*` for a star import."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield (alias.asname or alias.name.partition(".")[0]), node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            inner = (name for target in targets for name in ast.walk(target))
            yield from ((name.id, node) for name in inner if isinstance(name, ast.Name))
        else:
            for block in ("body", "orelse", "finalbody"):
                yield from _names(getattr(node, block, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _names(handler.body)


def _actor_name(file: Path, line: int, function: str) -> str:
    name = function.rpartition(".")[2].lower().replace("_", "-").strip("-")
    if is_actor_name(name) and not name.startswith(SYSTEM_NAMES):
        return name
    why = f'names are a-z, 0-9 and "-", at most {NAME_MAX}, and do not start with "x-"'
    text = f"{quoted(function)} makes no actor's name ({why})"
    raise _unusable(f"{file}:{line}: {text}; rename the function, or write a manifest")
