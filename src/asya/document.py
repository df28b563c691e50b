"""YAML files whose every value knows its line.

Safe by construction: only plain JSON values come out, a key may stand once, an alias cannot blow a
document up, and nothing here recurses into what the user wrote deeper than `DEPTH_MAX`. Dates stay
texts, as they do on Kubernetes. Read by manifests and by the settings of `asya.yaml`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import yaml

from asya.codes import Code
from asya.errors import Complaint, nearest

DEPTH_MAX: Final = 100
NODES_MAX: Final = 100_000
"""Values in one document, counting each use of an alias."""
FILE_MAX_BYTES: Final = 4 * 2**20

Loc = tuple[str | int, ...]
"""Keys and indexes from the top of a document to a value."""

_TAG: Final = "tag:yaml.org,2002:"
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHOWN_MAX: Final = 60


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where. `str()` is the line for the user."""

    file: str
    line: int
    loc: Loc
    text: str
    code: Code = Code.FIELD_INVALID

    def complaint(self) -> Complaint:
        """The line for the user, with the code."""
        return Complaint(str(self), self.code)

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return where + (f"{dotted(self.loc)}: {self.text}" if self.loc else self.text)


class _Node:
    """A YAML value. `items` are children of a list, `pairs` those of a mapping."""

    __slots__ = ("items", "line", "pairs", "size", "tag", "text")

    def __init__(self, line: int, tag: str, text: str = "") -> None:
        self.line = line
        self.tag = tag
        self.text = text
        self.items: list[_Node] | None = None
        self.pairs: list[tuple[_Node, _Node]] | None = None
        self.size = 1


@dataclass
class Document:
    """One YAML document of a file.

    Attributes:
        file: The file's name as the user gave it.
        line: Where the document begins, from 1.
        problems: What was wrong with the YAML itself; filled by `read`.
    """

    file: str
    line: int
    _root: _Node
    problems: list[Problem] = field(default_factory=list)

    def peek(self, key: str) -> str | None:
        """The text of a top-level scalar, without reading the document; None when absent."""
        for name, value in self._root.pairs or ():
            if name.text == key and value.items is None and value.pairs is None:
                return value.text
        return None

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        root = self._root
        return root.items is None and root.pairs is None and root.tag == _TAG + "null"

    def read(self) -> Any:
        """The document as JSON values. What cannot be one is left out and noted in `problems`."""
        self.problems.clear()
        return self._read(self._root, ())

    def line_of(self, loc: Loc, *, key: bool = False) -> int:
        """The line of a value, or (`key`) of its key; of the nearest parent that exists."""
        node, line = self._root, self._root.line
        for step in loc:
            found = _child(node, step)
            if found is None:
                return line
            name, node = found
            line = name.line
        return line if key else max(line, node.line) if _is_scalar(node) else line

    def problem(
        self, loc: Loc, text: str, *, key: bool = False, code: Code = Code.FIELD_INVALID
    ) -> Problem:
        """A problem with the value at `loc`."""
        return Problem(self.file, self.line_of(loc, key=key), loc, text, code)

    def _note(self, node: _Node, loc: Loc, text: str) -> None:
        self.problems.append(Problem(self.file, node.line, loc, text, Code.MANIFEST_UNREADABLE))

    def _read(self, node: _Node, loc: Loc) -> Any:
        if node.pairs is not None:
            return self._read_mapping(node, loc)
        if node.items is not None:
            if node.tag != _TAG + "seq":
                self._note(node, loc, f"the tag {node.tag} is not supported")
            return [self._read(item, (*loc, index)) for index, item in enumerate(node.items)]
        return self._read_scalar(node, loc)

    def _read_mapping(self, node: _Node, loc: Loc) -> dict[str, Any]:
        if node.tag != _TAG + "map":
            self._note(node, loc, f"the tag {node.tag} is not supported")
        data: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.pairs or ():
            if key.tag == _TAG + "merge":
                merged = self._read_merge(value, loc) | merged
            elif not _is_scalar(key) or key.tag != _TAG + "str":
                shown = f" (write it in quotes: {quoted(key.text)})" if _is_scalar(key) else ""
                self._note(key, loc, f"expected a string as key{shown}")
            elif key.text in data:
                first = lines[key.text]
                text = f"the key is a duplicate of the one in line {first}; remove one"
                self._note(key, (*loc, key.text), text)
            else:
                lines[key.text] = key.line
                data[key.text] = self._read(value, (*loc, key.text))
        return merged | data

    def _read_merge(self, value: _Node, loc: Loc) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for source in value.items if value.items is not None else [value]:
            if source.pairs is None:
                self._note(source, (*loc, "<<"), "expected a mapping, or a list of mappings")
            else:
                merged = self._read_mapping(source, loc) | merged
        return merged

    def _read_scalar(self, node: _Node, loc: Loc) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind in {"str", "timestamp", "value", "merge"}:
            return node.text
        reader = _SCALARS.get(kind)
        if reader is None:
            self._note(node, loc, f"the tag {node.tag} is not supported")
            return node.text
        try:
            value = reader(yaml.ScalarNode(node.tag, node.text))
        except (ValueError, KeyError, IndexError):
            self._note(node, loc, f"{quoted(node.text)} cannot be read as {kind}")
            return node.text
        if isinstance(value, float) and not abs(value) < float("inf"):
            self._note(node, loc, f"{node.text} is not a JSON number; write a finite number")
            return 0.0
        return value


_CONSTRUCTOR: Final = yaml.constructor.SafeConstructor()
_SCALARS: Final[dict[str, Any]] = {
    "null": lambda _node: None,
    "bool": _CONSTRUCTOR.construct_yaml_bool,
    "int": _CONSTRUCTOR.construct_yaml_int,
    "float": _CONSTRUCTOR.construct_yaml_float,
}
_RESOLVER: Final[Any] = yaml.resolver.Resolver()


def _is_scalar(node: _Node) -> bool:
    return node.items is None and node.pairs is None


def _child(node: _Node, step: str | int) -> tuple[_Node, _Node] | None:
    """The node that carries the line of the key, and the value's node."""
    if isinstance(step, int):
        if node.items is not None and 0 <= step < len(node.items):
            return node.items[step], node.items[step]
        return None
    merges = []
    for key, value in node.pairs or ():
        if key.tag == _TAG + "merge":
            merges += value.items if value.items is not None else [value]
        elif key.text == step:
            return key, value
    for source in merges:
        found = _child(source, step)
        if found is not None:
            return found
    return None


class _Bad(Exception):
    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


def documents(path: Path, label: str | None = None) -> tuple[list[Document], list[Problem]]:
    """The documents of a YAML file that are not empty, and what is wrong with the file.

    Documents before a syntax error are returned too. `label` is the file's name in problems.
    """
    name = str(path) if label is None else label
    try:
        data = path.read_bytes()
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
        return [], [Problem(name, 0, (), text, Code.MANIFEST_UNREADABLE)]
    if len(data) > FILE_MAX_BYTES:
        text = f"is {len(data)} bytes long; a YAML file may have {FILE_MAX_BYTES}"
        return [], [Problem(name, 0, (), text, Code.MANIFEST_UNREADABLE)]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return [], [Problem(name, line, (), "is not UTF-8", Code.MANIFEST_UNREADABLE)]
    found: list[Document] = []
    try:
        for root, line in _roots(text):
            document = Document(name, line, root)
            if not document.empty:
                found.append(document)
    except _Bad as bad:
        return found, [Problem(name, bad.line, (), bad.text, Code.MANIFEST_UNREADABLE)]
    return found, []


def _roots(text: str) -> Iterator[tuple[_Node, int]]:
    """The root node of each document, and its line."""
    try:
        events = iter(yaml.parse(text, Loader=_LOADER))
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                root = _compose(events)
                yield root, root.line
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 0
        raise _Bad(line, f"is not YAML: {error.reason}") from error


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> _Bad:
    mark = error.problem_mark or error.context_mark
    # the parser counts the end of the text as a line of its own
    line = min(mark.line + 1, max(1, len(text.splitlines()))) if mark else 0
    said = error.problem or error.context or "cannot be parsed"
    begun = error.context_mark.line + 1 if error.context and error.context_mark else line
    if begun < line:
        said += f" ({error.context} that begins in line {begun})"
    hint = "; indent with spaces, not tabs" if "start any token" in said else ""
    return _Bad(line, f"is not YAML: {said}{hint}")


def _compose(events: Iterator[Any]) -> _Node:
    """The nodes of one document, from its events, without recursion."""
    stack: list[tuple[_Node, list[_Node], str | None]] = []
    anchors: dict[str, _Node] = {}
    for event in events:
        line = event.start_mark.line + 1
        anchor = getattr(event, "anchor", None)
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            is_list = isinstance(event, yaml.SequenceStartEvent)
            if len(stack) >= DEPTH_MAX:
                raise _Bad(line, f"is nested more than {DEPTH_MAX} levels deep")
            tag = event.tag if event.tag not in {None, "!"} else _TAG + ("seq", "map")[not is_list]
            node = _Node(line, tag)
            node.items, node.pairs = ([], None) if is_list else (None, [])
            stack.append((node, [], anchor))
            continue
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            node, children, anchor = stack.pop()
            _close(node, children)
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in anchors:
                raise _Bad(line, f"the alias *{anchor} needs an anchor &{anchor} before it")
            node = anchors[anchor]
        else:
            node = _scalar(event, line)
        if anchor is not None:
            anchors[anchor] = node
        if not stack:
            return node
        stack[-1][1].append(node)
    raise AssertionError("a document has events up to its end")


def _close(node: _Node, children: list[_Node]) -> None:
    node.size = 1 + sum(child.size for child in children)
    if node.size > NODES_MAX:
        raise _Bad(node.line, f"has more than {NODES_MAX} values, counting each use of an alias")
    if node.pairs is None:
        node.items = children
    else:
        node.pairs = list(zip(children[::2], children[1::2], strict=True))


def _scalar(event: Any, line: int) -> _Node:
    tag = event.tag
    if tag is None or tag == "!":
        tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
    return _Node(line, cast("str", tag), event.value)


def dotted(loc: Loc) -> str:
    """A path as people write it: `spec.rules[0].policy`, `limits["nvidia.com/gpu"]`."""
    out = ""
    for step in loc:
        if isinstance(step, int):
            out += f"[{step}]"
        elif step.replace("_", "").replace("-", "").isalnum() or step == "<<":
            out += f".{step}" if out else step
        else:
            out += f"[{quoted(step)}]"
    return out


def quoted(text: str) -> str:
    """A text in double quotes, shortened when it is long."""
    shown = text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
    return json.dumps(shown, ensure_ascii=False)


def shown(value: Any) -> str:
    """A value the user wrote, as a few words for an error."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"


def unknown(what: str, name: str, known: Iterator[str] | list[str]) -> str:
    """`unknown field 'handlr'; did you mean 'handler'?`, or the list of what there is."""
    names = sorted(known)
    close = nearest(name, names)
    if close is not None:
        return f"unknown {what} {name!r}; did you mean {close!r}?"
    return (
        f"unknown {what} {name!r}; there are {', '.join(names)}"
        if names
        else f"unknown {what} {name!r}"
    )
