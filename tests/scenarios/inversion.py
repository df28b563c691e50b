"""Inverts one rule: edits the source of one function, and lets everybody run the edited one.

The function object stays; its code is replaced. So it does not matter how others got hold of it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True)
class Inversion:
    """A change of one expression.

    Attributes:
        function: `module:qualified.name`.
        find: A piece of its source that stands there exactly once.
        put: What stands there instead.
    """

    function: str
    find: str
    put: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Everybody who calls the function runs the edited one, until the end of the block."""
        function, code = self._function(), self._edited()
        original = function.__code__
        function.__code__ = code
        try:
            yield
        finally:
            function.__code__ = original

    def _function(self) -> FunctionType:
        module, _, name = self.function.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = inspect.getattr_static(found, part)
        except (ImportError, AttributeError) as error:
            text = f"{self.function} is gone; name the expression that holds the rule now"
            raise AssertionError(text) from error
        found = getattr(found, "fget", found)
        assert isinstance(found, FunctionType), f"{self.function} is no function"
        return found

    def _edited(self) -> CodeType:
        module, _, name = self.function.partition(":")
        path = inspect.getsourcefile(importlib.import_module(module))
        assert path is not None
        lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
        node = _node(ast.parse("".join(lines)), name.split("."))
        end = node.end_lineno or node.lineno
        source = "".join(lines[node.lineno - 1 : end])
        count = source.count(self.find)
        assert count == 1, (
            f"{self.find!r} stands {count} times in {self.function}, expected 1; "
            "name the expression that holds the rule now"
        )
        edited = source.replace(self.find, self.put)
        whole = "".join(lines[: node.lineno - 1]) + edited + "".join(lines[end:])
        return _code(compile(whole, path, "exec"), name)


def _node(tree: ast.AST, names: list[str]) -> ast.FunctionDef | ast.AsyncFunctionDef:
    for name in names:
        tree = next(
            node
            for node in ast.iter_child_nodes(tree)
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == name
        )
    assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    return tree


def _code(outer: CodeType, qualified_name: str) -> CodeType:
    inside = [const for const in outer.co_consts if isinstance(const, CodeType)]
    while inside:
        code = inside.pop()
        if code.co_qualname == qualified_name:
            return code
        inside += [const for const in code.co_consts if isinstance(const, CodeType)]
    raise AssertionError(f"{qualified_name} is not in {outer.co_filename}")
