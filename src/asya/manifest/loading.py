"""From paths to manifests, with every problem of every file at once.

A folder gives all its `*.yaml` and `*.yml`, also in folders below, but not hidden ones and not
`asya.yaml`; other documents are skipped there with a note. A file that is named
must hold manifests only. Called by `asya up`, `asya validate` and tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from asya.codes import Code
from asya.document import Document, Problem, documents, quoted, unknown
from asya.errors import Complaint, ManifestError, nearest
from asya.manifest import checks
from asya.manifest.complaints import complaints
from asya.manifest.functions import actor_from_function, is_target
from asya.manifest.model import API_VERSION, GROUP, KINDS, AsyncActor, Flow, Schedule, Source

SETTINGS_FILE: Final = "asya.yaml"
SUFFIXES: Final = (".yaml", ".yml")
_PASSED_OVER: Final = frozenset({"__pycache__", "node_modules"})


@dataclass(frozen=True)
class Manifests:
    """What was loaded.

    Attributes:
        actors: In the order of the paths, then of the files' names.
        flows: The same.
        schedules: The same.
        warnings: What is allowed and may surprise, one line each, with file and line.
        notes: Files and documents that were passed over, one line each.
    """

    actors: list[AsyncActor] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load(paths: Iterable[Path | str], *, namespace: str = "default") -> Manifests:
    """The manifests of files, folders and functions (`handlers.py:embed`).

    Args:
        paths: Taken as they are; problems name them like that.
        namespace: Of manifests that name none.

    Raises:
        ManifestError: With all problems, in the order of the paths.
    """
    loading = _Loading(namespace)
    for path in paths:
        loading.take(path)
    return loading.finish()


class _Loading:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[Problem] = []
        self.placed: list[checks.Placed] = []
        self.named: list[checks.Named] = []
        self.functions: list[AsyncActor] = []
        self.seen: set[Path] = set()

    def take(self, path: Path | str) -> None:
        if is_target(str(path)):
            self._take_function(str(path))
            return
        path = Path(path)
        if path.is_dir():
            self._take_folder(path)
        elif not path.exists():
            self._complain(f"{path}: {_missing(path)}", Code.MANIFEST_MISSING)
        elif path.suffix == ".py":
            self._complain(
                f"{path}: name a function in it: {path}:function", Code.FUNCTION_UNUSABLE
            )
        elif path.name == SETTINGS_FILE:
            self._complain(
                f"{path}: holds settings, not manifests; give its folder", Code.MANIFEST_FOREIGN
            )
        else:
            self._take_file(path, named=True)

    def _take_function(self, target: str) -> None:
        try:
            self.functions.append(actor_from_function(target, namespace=self.namespace))
        except ManifestError as error:
            self.problems += error.problems

    def _take_folder(self, folder: Path) -> None:
        before = len(self.placed) + len(self.problems)
        for path in _files(folder):
            self._take_file(path, named=False)
        if len(self.placed) + len(self.problems) == before:
            self._complain(
                f"{folder}: no AsyncActor, Flow or Schedule in it (looked into *.yaml and *.yml)",
                Code.MANIFEST_MISSING,
            )

    def _take_file(self, path: Path, *, named: bool) -> None:
        real = path.resolve()
        if real in self.seen:
            return
        self.seen.add(real)
        found, problems = documents(path)
        if problems and not named and not _mentions_us(path):
            self.notes += [f"{problem}; passed over" for problem in problems]
        else:
            self.problems += map(Problem.complaint, problems)
        if named and not found and not problems:
            self._complain(f"{path}: is empty", Code.MANIFEST_MISSING)
        for document in found:
            self._take_document(document, path, named=named)

    def _take_document(self, document: Document, path: Path, *, named: bool) -> None:
        problem = _foreign(document)
        if problem is not None:
            if named or _meant_for_us(document):
                self.problems.append(problem.complaint())
            else:
                self.notes.append(f"{problem}; passed over")
            return
        data = document.read()
        problems = list(document.problems)
        model = KINDS[data["kind"]]
        try:
            manifest = model.model_validate(data)
        except ValidationError as error:
            problems += complaints(error, model, data, document)
        else:
            folder = path.resolve().parent
            manifest.place(Source(path, document.line), folder, self.namespace)
            self.placed.append((manifest, document))
        names = checks.named(data, document, self.namespace)
        if names is not None:
            self.named.append(names)
        problems += checks.document_problems(data, document)
        problems.sort(key=lambda problem: problem.line)
        self.problems += map(Problem.complaint, problems)
        self.warnings += checks.document_warnings(data, document)

    def finish(self) -> Manifests:
        self.problems += map(Problem.complaint, checks.name_problems(self.named))
        self.problems += map(Problem.complaint, checks.schedule_problems(self.placed))
        self.problems += self._function_problems()
        if self.problems:
            raise ManifestError(self.problems)
        manifests = [manifest for manifest, _ in self.placed]
        actors = [m for m in manifests if isinstance(m, AsyncActor)] + self.functions
        also = [actor.name for actor in self.functions]
        self.warnings += checks.route_warnings(self.placed, also)
        return Manifests(
            actors=actors,
            flows=[manifest for manifest in manifests if isinstance(manifest, Flow)],
            schedules=[manifest for manifest in manifests if isinstance(manifest, Schedule)],
            warnings=[str(warning) for warning in self.warnings],
            notes=self.notes,
        )

    def _complain(self, text: str, code: Code) -> None:
        self.problems.append(Complaint(text, code))

    def _function_problems(self) -> Iterator[Complaint]:
        places = {
            (actor.namespace, actor.name): _place(actor)
            for actor, _ in self.placed
            if isinstance(actor, AsyncActor)
        }
        for actor in self.functions:
            key = (actor.namespace, actor.name)
            if key in places:
                text = f"{_place(actor)}: another actor {quoted(actor.name)} is defined at {places[key]}"
                yield Complaint(text, Code.NAME_TAKEN)
            places.setdefault(key, _place(actor))


def _place(actor: AsyncActor) -> str:
    return f"{actor.source.file}:{actor.source.line}"


def _missing(path: Path) -> str:
    module, colon, function = path.name.partition(":")
    if colon:
        target = path.with_name(f"{module.removesuffix('.py')}.py:{function or 'function'}")
        return f"no such file or folder; a function is named file.py:function: {target}"
    if not path.parent.is_dir():
        return "no such file or folder"
    near = nearest(path.name, [other.name for other in path.parent.iterdir()])
    return "no such file or folder" + (f"; did you mean {path.parent / near}?" if near else "")


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in _PASSED_OVER
        )
        for name in sorted(files):
            if name.endswith(SUFFIXES) and not name.startswith(".") and name != SETTINGS_FILE:
                yield Path(root) / name


def _mentions_us(path: Path) -> bool:
    try:
        return GROUP.encode() in path.read_bytes()
    except OSError:
        return False


def _meant_for_us(document: Document) -> bool:
    """Whether a document that is not an Asya manifest was most likely meant as one."""
    version, kind = document.peek("apiVersion"), document.peek("kind")
    if version is None:
        return kind in KINDS
    if version.startswith(GROUP):
        return True
    return kind in KINDS and nearest(version, [API_VERSION]) is not None


def _foreign(document: Document) -> Problem | None:
    """Why a document is not an Asya manifest, or None if it is one."""
    version, kind = document.peek("apiVersion"), document.peek("kind")
    if version == API_VERSION and kind in KINDS:
        return None
    kinds = " or ".join(KINDS)
    if version is None and kind is None:
        text = f"is not a manifest: expected `apiVersion: {API_VERSION}` and `kind: {kinds}`"
        return Problem(document.file, document.line, (), text, Code.MANIFEST_FOREIGN)
    if version != API_VERSION and (kind in KINDS or kind is None):
        got = "nothing" if version is None else quoted(version)
        text = f"expected {quoted(API_VERSION)}, got {got}"
        return document.problem(("apiVersion",), text, code=Code.MANIFEST_FOREIGN)
    if kind is None:
        return document.problem(("kind",), f"is required: {kinds}", code=Code.MANIFEST_FOREIGN)
    text = unknown("kind", kind, list(KINDS))
    return document.problem(("kind",), text, code=Code.MANIFEST_FOREIGN)
