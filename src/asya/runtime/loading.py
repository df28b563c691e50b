"""Finds the handler that `module.function` or `module.Class.method` names, and makes it ready.

Every way in which that can go wrong is a `HandlerError` whose text says what was looked for, where,
and what is near. A class on the way is made once, with default arguments; `Handler.close` ends
what it opened. Nothing here runs the handler.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Awaitable, Callable, Iterable, List, Optional, Tuple

    Run = Callable[[Awaitable[Any]], Any]

_CO_VARARGS = 0x04
_CO_ASYNC = 0x80 | 0x200  # coroutine functions and async generator functions
_UNTYPED = {"Any", "typing.Any", "dict", "list", "str", "int", "float", "bool", "object", "bytes"}


class HandlerError(Exception):
    """The handler cannot be imported, found, made, or called with one argument.

    `__cause__` is the user's own error, where there was one. The kinds below tell what it was; the
    mesh knows them by their names.
    """


class BadName(HandlerError):
    """Not of the form `module.function`."""


class ModuleMissing(HandlerError):
    """There is no such module."""


class ImportFailed(HandlerError):
    """The module raised while it was imported."""


class HandlerMissing(HandlerError):
    """The module, or the class, has no such name, or it is a class or cannot be called."""


class BadSignature(HandlerError):
    """It cannot be called with one argument, the payload."""


class ClassFailed(HandlerError):
    """Its class cannot be made with default arguments, or not be entered."""


class Handler:
    """A handler that is ready to be called with one payload.

    Attributes:
        name: As the manifest has it.
        call: Takes the payload.
        is_async: Calling it needs a running event loop: a coroutine function or an async generator
            function. A plain function that returns something awaitable is not known before.
        build: Makes the argument from the payload, or None.
    """

    def __init__(self, name: str, call: Callable[[Any], Any], owner: Any) -> None:
        self.name = name
        self.call = call
        self.is_async = is_async(call)
        self.build = _build(call)
        self._owner = owner
        self._entered = False

    def enter(self, run: Run) -> None:
        """Enter the instance where it is a context manager. `run` runs an awaitable to its end."""
        kind = type(self._owner)
        if hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__"):
            run(kind.__aenter__(self._owner))
        elif hasattr(kind, "__enter__") and hasattr(kind, "__exit__"):
            kind.__enter__(self._owner)
        else:
            return
        self._entered = True

    def close(self, run: Run) -> None:
        """Leave the context, or call `aclose` or `close`, where the instance has one."""
        owner = self._owner
        kind = type(owner)
        if self._entered and hasattr(kind, "__aexit__"):
            run(kind.__aexit__(owner, None, None, None))
        elif self._entered:
            kind.__exit__(owner, None, None, None)
        elif owner is not None:
            close = getattr(owner, "aclose", None) or getattr(owner, "close", None)
            ended: Any = close() if callable(close) else None
            if hasattr(ended, "__await__"):
                run(ended)


def extend_path(folders: Iterable[str]) -> None:
    """Put `folders` and the working folder first on `sys.path`, in this order."""
    wanted = [os.path.abspath(folder) for folder in folders if folder]
    wanted.append(os.getcwd())
    seen = dict.fromkeys(wanted)
    sys.path[:] = list(seen) + [entry for entry in sys.path if entry and entry not in seen]


def load(name: str, make: Callable[[Callable[[], Any], bool], Any]) -> Handler:
    """Import, find and make the handler.

    Args:
        name: `module.function` or `module.Class.method`; the module may have packages before it.
        make: Called with the class and whether the method is async; gives back the instance (an
            async handler's class is made inside its event loop).

    Raises:
        HandlerError: See the class.
    """
    if not name or not all(part.isidentifier() for part in name.split(".")) or "." not in name:
        raise BadName(
            f"{name!r} names no handler; it must be module.function or module.Class.method"
        )
    module, parts = _import(name)
    owner: Any = None
    found: Any = module
    for at, part in enumerate(parts):
        if not hasattr(found, part):
            raise HandlerMissing(_no_attribute(name, found, part))
        if isinstance(found, type):
            owner = found = _instance(name, found, part, make)
        found = getattr(found, part)
        if isinstance(found, type) and at == len(parts) - 1:
            raise HandlerMissing(
                f"the handler {name!r} is a class; name one of its methods, such as {name}."
                f"{_first_method(found)}"
            )
    if not callable(found):
        raise HandlerMissing(
            f"the handler {name!r} is of type {type(found).__name__}, which cannot be called"
        )
    problem = argument_problem(found)
    if problem:
        raise BadSignature(f"the handler {name!r} {problem}")
    return Handler(name, found, owner)


def prepare(name: str) -> None:
    """Import what a replica with this handler will need; makes and enters nothing.

    Raises:
        HandlerError: The module cannot be imported.
    """
    found: Any
    found, parts = _import(name)
    for part in parts:
        found = getattr(found, part, None)
    if not callable(found):
        return  # a replica tells what is wrong
    if is_async(found):
        import asyncio  # noqa: F401  for the replicas
    _build(found)


def is_async(call: Any) -> bool:
    """Whether calling it gives a coroutine or an async generator."""
    function = _function(call)
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & _CO_ASYNC:
        return True
    # Set by inspect.markcoroutinefunction and by asyncio.coroutine.
    return any(
        getattr(one, mark, None) is not None
        for one in (call, function)
        for mark in ("_is_coroutine_mark", "_is_coroutine")
    )


def argument_problem(call: Any) -> Optional[str]:
    """What is wrong with the parameters of a handler, which is called with one payload."""
    function = call
    bound = 0
    if hasattr(function, "__func__"):
        function, bound = function.__func__, 1
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__signature__"):
        return _signature_problem(call)
    count = code.co_argcount - bound
    if count < 1 and not code.co_flags & _CO_VARARGS:
        return "takes no argument; it must take the payload"
    names = code.co_varnames
    needed = max(count - len(function.__defaults__ or ()), 0)
    if needed > 1:
        missing = ", ".join(names[bound : bound + needed])
        return f"needs {needed} arguments ({missing}); it is called with one, the payload"
    keywords = names[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    needed_words = [word for word in keywords if word not in (function.__kwdefaults__ or {})]
    if needed_words:
        return f"needs the keyword {needed_words[0]!r}; it is called with the payload alone"
    return None


def _signature_problem(call: Any) -> Optional[str]:
    import inspect

    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return None  # written in C, and silent about its parameters
    try:
        signature.bind(None)
    except TypeError as error:
        if not signature.parameters:
            return "takes no argument; it must take the payload"
        return f"cannot be called with one argument, the payload: {error}"
    return None


def _function(call: Any) -> Any:
    """The function that does the work behind partials, bound methods and callable instances."""
    for _ in range(16):
        if hasattr(call, "func") and hasattr(call, "keywords"):
            call = call.func
        elif hasattr(call, "__func__"):
            call = call.__func__
        elif not hasattr(call, "__code__") and hasattr(type(call).__call__, "__code__"):
            return type(call).__call__
        else:
            break
    return call


def _build(call: Any) -> Optional[Callable[[Any], Any]]:
    function = _function(call)
    notes = [
        note if isinstance(note, str) else getattr(note, "__name__", "")
        for name, note in getattr(function, "__annotations__", {}).items()
        if name != "return"
    ]
    if all(note in _UNTYPED for note in notes):
        return None
    from asya.runtime import typed

    return typed.builder_for(call)


def _import(name: str) -> Tuple[ModuleType, List[str]]:
    """The module with the longest name that can be imported, and the parts after it."""
    import importlib

    parts = name.split(".")
    for size in range(len(parts) - 1, 0, -1):
        wanted = ".".join(parts[:size])
        try:
            return importlib.import_module(wanted), parts[size:]
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing == wanted and size > 1:
                continue
            if missing == wanted or wanted.startswith(missing + "."):
                if size > 1:
                    continue
                raise ModuleMissing(_no_module(name, wanted)) from None
            raise _import_error(name, wanted, error) from error
        except BaseException as error:  # whatever the module does when it is imported
            raise _import_error(name, wanted, error) from error
    raise AssertionError(name)


def _import_error(name: str, module: str, error: BaseException) -> ImportFailed:
    return ImportFailed(
        f"the handler {name!r} cannot be imported: its module {module!r} raised "
        f"{type(error).__name__}: {error}"
    )


def _instance(
    name: str, kind: type, method: str, make: Callable[[Callable[[], Any], bool], Any]
) -> Any:
    try:
        return make(kind, is_async(getattr(kind, method)))
    except BaseException as error:
        raise ClassFailed(
            f"the class of the handler {name!r} cannot be made with default arguments: "
            f"{type(error).__name__}: {error}"
        ) from error


def _no_module(name: str, module: str) -> str:
    folders = [entry for entry in sys.path if os.path.isdir(entry)]
    known = set()
    for folder in folders:
        try:
            entries = os.listdir(folder)
        except OSError:
            continue
        for entry in entries:
            stem, dot, end = entry.partition(".")
            if end == "py" or (not dot and os.path.isdir(os.path.join(folder, entry))):
                known.add(stem)
    shown = ", ".join(sys.path[:3])
    return (
        f"the handler {name!r} cannot be imported: there is no module {module!r}"
        f"{_nearest(module, known)} (looked in {shown} and the installed packages)"
    )


def _no_attribute(name: str, found: Any, part: str) -> str:
    kind = "class" if isinstance(found, type) else "module"
    where = getattr(found, "__name__", type(found).__name__)
    known = [one for one in dir(found) if callable(getattr(found, one, None))]
    return (
        f"the handler {name!r} does not exist: the {kind} {where!r} has no {part!r}"
        f"{_nearest(part, known)}"
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib

    found = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _first_method(kind: type) -> str:
    names = [name for name, value in vars(kind).items() if callable(value) and name[0] != "_"]
    return names[0] if names else "method"
