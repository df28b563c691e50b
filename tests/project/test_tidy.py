"""The ratchet: sizes, names and leftovers. A file that is over a bound is split, not excused."""

import ast
import re
from collections.abc import Collection
from pathlib import Path

from tests.project.figures import ATTRIBUTES_MAX, attributes

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 800
VAGUE = {"util", "utils", "helper", "helpers", "common", "misc", "manager"}

UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
ADDRESSES = re.compile(
    r"pypi\.|pythonhosted\.|registry\.npmjs|registry\.yarnpkg|proxy\.golang|--index-url|extra-index"
)
MACHINE_PATHS = re.compile(r"(?<![\w./-])/(work|root|home/\w+|Users/\w+)/")
EXCEPTION = re.compile(
    r"#\s*(?:noqa|type:\s*ignore)\b[:\[ ]*([\w\d, -]*?)\]?(?:$|\s\s+(\S.*)|\s+--\s+(\S.*))"
)
EXPLAINED_ONCE = {"A002": "`id` is the name on the wire"}
"""Codes whose one reason holds wherever they are ignored."""
CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]+")
WITHOUT_TYPING = "src/asya/runtime/"
"""Starts in the Python of the user, from 3.9 on, without `typing`, which costs start-up time."""

_FLAT = "each field is one of a JSON document that users see; groups would change it"
LARGE_CLASSES = {
    "settings.py Settings": "each field is a setting of its own, flat as in asya.yaml",
    "manifest/model.py ActorSpec": _FLAT,
    "tasks/rules.py TaskRow": "each field is a column of the task table",
    "tasks/mesh.py ActorStatus": _FLAT,
    "gateway/http/views.py EnvelopeView": _FLAT,
    "sidecar/sidecar.py Sidecar": "ties the parts of a sidecar together; parts still move out",
    "sidecar/work.py Work": "what one message in work needs; parts still move out",
    "sidecar/replica.py Replica": "connection and calls of one process; to become a pure machine",
}
"""Classes with more attributes than others may have, and why. They are fewer than ten."""


def found(
    files: list[Path], root: Path, pattern: re.Pattern[str], *, but: Collection[str] = ()
) -> list[str]:
    """`file:line: text` of every line that the pattern is in."""
    return [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in files
        if str(path.relative_to(root)) not in but
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_functions_are_short(root: Path, python_files: list[Path]) -> None:
    long = [
        f"{path.relative_to(root)}:{node.lineno}: {node.name} has {lines} lines"
        for path in python_files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_files_are_short(root: Path, python_files: list[Path]) -> None:
    long = {
        str(path.relative_to(root)): lines
        for path in python_files
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    }
    assert long == {}


def test_classes_have_few_attributes(root: Path, source_files: list[Path]) -> None:
    large = {
        f"{path.relative_to(root / 'src' / 'asya')} {node.name}"
        for path in source_files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and len(attributes(node)) > ATTRIBUTES_MAX
    }
    assert large - set(LARGE_CLASSES) == set(), f"more than {ATTRIBUTES_MAX} attributes; split it"
    assert set(LARGE_CLASSES) - large == set(), "no longer large; remove it from LARGE_CLASSES"
    assert len(LARGE_CLASSES) < 10


def test_constants_are_final(root: Path, source_files: list[Path]) -> None:
    changeable = [
        f"{path.relative_to(root)}:{node.lineno}: {name}"
        for path in source_files
        if not str(path.relative_to(root)).startswith(WITHOUT_TYPING)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in assigned(node)
        if CONSTANT.fullmatch(name) and not is_final(node)
    ]
    assert changeable == []


def test_a_logger_is_called_log(root: Path, source_files: list[Path]) -> None:
    other = [
        f"{path.relative_to(root)}:{statement.lineno}: {name}"
        for path in source_files
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        and statement.value is not None
        and ast.unparse(statement.value).startswith(("logging.getLogger(", "getLogger("))
        for name in assigned(statement)
        if name != "log"
    ]
    assert other == []


def assigned(statement: ast.stmt) -> list[str]:
    """Names that a statement of a module assigns."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def is_final(statement: ast.stmt) -> bool:
    """Whether an assignment says that nothing else is assigned later."""
    return isinstance(statement, ast.AnnAssign) and ast.unparse(statement.annotation).startswith(
        "Final"
    )


def test_no_module_has_a_vague_name(root: Path, python_files: list[Path]) -> None:
    vague = [path for path in python_files if VAGUE & set(path.stem.split("_"))]
    assert [str(path.relative_to(root)) for path in vague] == []


def test_nothing_is_left_for_later(root: Path, text_files: list[Path]) -> None:
    assert found(text_files, root, UNFINISHED) == []


def test_no_file_holds_the_address_of_a_registry(root: Path, text_files: list[Path]) -> None:
    assert found(text_files, root, ADDRESSES, but={"tests/project/test_tidy.py"}) == []


def test_no_file_holds_a_path_of_someones_machine(root: Path, text_files: list[Path]) -> None:
    assert found(text_files, root, MACHINE_PATHS, but={"tests/project/test_tidy.py"}) == []


def test_every_exception_from_a_check_says_why(root: Path, source_files: list[Path]) -> None:
    silent = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in source_files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (ignored := EXCEPTION.search(line))
        and not (ignored[2] or ignored[3])
        and ignored[1].strip() not in EXPLAINED_ONCE
    ]
    assert silent == []


def test_every_package_that_is_asked_for_is_locked(root: Path) -> None:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"])
    for group in (project["project"]["optional-dependencies"], project["dependency-groups"]):
        wanted += [item for items in group.values() for item in items]
    names = {Requirement(item).name for item in wanted} - {"asya"}
    locks = "".join(path.read_text() for path in (root / "requirements").glob("*.lock"))
    locked = set(re.findall(r"^([a-z0-9-]+)==", locks, re.MULTILINE))
    assert names - locked == set(), "run `make lock`"
