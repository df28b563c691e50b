"""What a reader of the code meets, in numbers. They are printed to be looked at; no check fails.

    python tests/project/figures.py [TREE] [--since REF]

`make check` prints them for this tree. TREE is another checkout, so that two commits can be
compared. `attributes` is also the rule of `test_tidy.py`.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import statistics
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
ATTRIBUTES_MAX: Final = 15
COMMITS_SHOWN: Final = 50
"""Commits that are counted when no REF is given."""

FILLER: Final = {
    "a", "all", "an", "and", "as", "at", "be", "by", "for", "from", "has", "have", "how", "in",
    "is", "it", "its", "of", "on", "one", "that", "the", "this", "to", "what", "when", "whether",
    "which", "with", "return", "returns", "get", "gets",
}  # fmt: skip
"""Words of a docstring that add nothing to a name."""

TOOL_COMMENT: Final = re.compile(r"#\s*(noqa|type:|fmt:|!)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Figures:
    """Counts of a source tree."""

    files: int = 0
    code: int = 0
    comment: int = 0
    commented: int = 0
    """Lines with a comment for readers, those behind code included."""
    docstring: int = 0
    blank: int = 0
    functions: int = 0
    longest_function: tuple[int, str] = (0, "")
    longest_file: tuple[int, str] = (0, "")
    used_once: list[str] = field(default_factory=list)
    attributes: dict[str, int] = field(default_factory=dict)
    repeating: list[str] = field(default_factory=list)

    @property
    def lines(self) -> int:
        """Lines of every kind."""
        return self.code + self.comment + self.docstring + self.blank


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def attributes(cls: ast.ClassDef) -> set[str]:
    """Names of the fields and instance attributes that a class itself defines.

    Constants (`Final`, `ClassVar`, upper-case names) do not count: they do not change.
    """
    names = {
        node.target.id
        for node in cls.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not re.match(r"(typing\.)?(ClassVar|Final)\b", ast.unparse(node.annotation))
    }
    for method in (node for node in cls.body if isinstance(node, Function)):
        receiver = method.args.args[0].arg if method.args.args else ""
        names |= {
            node.attr
            for node in ast.walk(method)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == receiver == "self"
        }
    return {name for name in names if not name.isupper()}


def repeats_the_name(name: str, docstring: str) -> bool:
    """Whether a docstring says nothing that the name does not say."""
    text = docstring.strip()
    if re.fullmatch(r"See `[\w.]+`\.?", text):
        return True
    known = {stem(word) for word in re.findall(r"[a-z]+", name.lower())}
    words = re.findall(r"[a-z]+", text.lower())
    return {stem(word) for word in words if word not in FILLER} <= known


def stem(word: str) -> str:
    """A word without its ending, roughly."""
    return re.sub(r"(ies|ing|ed|es|s|e|y)$", "", word)


def uses(tree: ast.AST) -> Counter[str]:
    """How often each name is read in a file, as a name or as an attribute."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found[node.attr] += 1
    return found


def measure(tree: Path) -> Figures:
    """Count what is under `src/asya`."""
    figures = Figures()
    source = tree / "src" / "asya"
    for path in sorted(source.rglob("*.py")):
        _measure_file(path, str(path.relative_to(source)), figures)
    return figures


def _measure_file(path: Path, name: str, figures: Figures) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    figures.files += 1
    lines = text.splitlines()
    _count_lines(lines, tree, figures)
    figures.longest_file = max(figures.longest_file, (len(lines), name))
    used = uses(tree)
    for function in functions(tree):
        figures.functions += 1
        where = f"{name}:{function.lineno} {function.name}"
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        figures.longest_function = max(figures.longest_function, (length, where))
        hidden = function.name.startswith("_") and not function.name.endswith("__")
        if hidden and used[function.name] == 1:
            figures.used_once.append(where)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            figures.attributes[f"{name} {node.name}"] = len(attributes(node))
        if isinstance(node, Function | ast.ClassDef):
            docstring = ast.get_docstring(node)
            if docstring is not None and repeats_the_name(node.name, docstring):
                figures.repeating.append(f"{name}:{node.lineno} {node.name}: {docstring}")


def _count_lines(lines: list[str], tree: ast.AST, figures: Figures) -> None:
    documented: set[int] = set()
    for node in ast.walk(tree):
        if (  # an attribute's docstring, too, is a text that stands alone
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline)
    commented = {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not TOOL_COMMENT.match(token.string)
    }
    figures.commented += len(commented)
    for number, line in enumerate(lines, 1):
        if number in documented:
            figures.docstring += 1
        elif not line.strip():
            figures.blank += 1
        elif number in commented and line.lstrip().startswith("#"):
            figures.comment += 1
        else:
            figures.code += 1


# -- one request, followed through the files -------------------------------------------------------


class Follower:
    """Counts calls of our functions while it is switched on, and how often the file changes."""

    def __init__(self, source: Path) -> None:
        self._source = f"{source}/"
        self._files: Counter[str] = Counter()
        self._last = ""
        self._changes = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """The profile function: a call, or a coroutine that goes on."""
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(self._source):
            return
        name = name.removeprefix(self._source)
        if name.startswith("testing/"):
            return
        self._files[name] += 1
        self._changes += name != self._last
        self._last = name

    def found(self) -> dict[str, Any]:
        """Calls, files and hand-overs from one file to another."""
        return {
            "calls": self._files.total(),
            "files": len(self._files),
            "hand_overs": self._changes,
        }


def follow_request(tree: Path) -> dict[str, Any]:
    """Send one envelope through two actors on the memory broker, in this process.

    It uses the public `asya.testing` only, so it runs on older checkouts.
    """
    sys.path.insert(0, str(tree / "src"))
    from asya.testing import play

    follower = Follower(tree / "src" / "asya")

    async def scene(box: Any) -> None:
        await box.run(["one", "two"], {"n": 1})  # what happens once is not counted
        sys.setprofile(follower)
        try:
            await box.run(["one", "two"], {"n": 1})
        finally:
            sys.setprofile(None)

    def same(payload: Any) -> Any:
        return payload

    play({"one": same, "two": same}, scene)
    return follower.found()


def follow_in_a_process(tree: Path) -> dict[str, Any]:
    """`follow_request` in a process of its own, which imports the code of that tree."""
    done = subprocess.run(
        [sys.executable, __file__, str(tree), "--request"],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode != 0:
        return {"failed": done.stderr.strip().rpartition("\n")[2]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- commits ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Commit:
    """Changed lines of one commit, renames not counted."""

    subject: str
    body: bool
    lines: int


def commits(tree: Path, since: str | None) -> list[Commit]:
    """Commits after `since`, or the last `COMMITS_SHOWN`; none outside a git checkout."""
    span = [f"{since}..HEAD"] if since else [f"--max-count={COMMITS_SHOWN}"]
    done = subprocess.run(
        ["git", "-C", str(tree), "log", "--no-merges", "-M", "--numstat",
         "--format=%x1e%s%x1f%b%x1f", *span],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        return []
    found = []
    for record in done.stdout.split("\x1e")[1:]:
        subject, body, changes = record.split("\x1f")
        counts = re.findall(r"^(\d+)\t(\d+)\t", changes, re.MULTILINE)
        found.append(Commit(subject, bool(body.strip()), sum(int(a) + int(b) for a, b in counts)))
    return found


# -- as text ---------------------------------------------------------------------------------------


def report(tree: Path, since: str | None, say: Callable[[str], None] = print) -> None:
    """Print all figures of a tree."""
    figures = measure(tree)
    share = 100 * len(figures.used_once) / max(1, figures.functions)
    most = sorted(figures.attributes.items(), key=lambda item: -item[1])
    over = [f"{name} {count}" for name, count in most if count > ATTRIBUTES_MAX]
    comments = 100 * figures.commented / max(1, figures.code + figures.comment)
    say(
        f"lines                     {figures.lines} in {figures.files} files: {figures.code} code, "
        f"{figures.comment} comment, {figures.docstring} docstring, {figures.blank} blank"
    )
    say(f"functions                 {figures.functions}")
    say(f"private, used once        {len(figures.used_once)} ({share:.1f} %)")
    say(f"longest function          {figures.longest_function[0]}: {figures.longest_function[1]}")
    say(f"longest file              {figures.longest_file[0]}: {figures.longest_file[1]}")
    say(f"most attributes           {most[0][1]}: {most[0][0]}" if most else "no classes")
    say(f"classes over {ATTRIBUTES_MAX}           {len(over)}: {', '.join(over)}")
    say(f"comments per 100 lines    {comments:.1f}")
    say(f"docstrings without news   {len(figures.repeating)}")
    request = follow_in_a_process(tree)
    said = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in request.items())
    say(f"a request, two actors     {said}")
    changes = commits(tree, since)
    if changes:
        sizes = [each.lines for each in changes]
        bare = sum(not each.body for each in changes)
        say(
            f"lines per commit          {statistics.median(sizes):.0f} median, {max(sizes)} most, "
            f"of {len(sizes)} commits; {bare} have no body"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tree", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--since", help="count the commits after this one")
    parser.add_argument("--list", action="store_true", help="name what is counted")
    parser.add_argument("--request", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tree = options.tree.resolve()
    if options.request:
        print(json.dumps(follow_request(tree)))
        return
    report(tree, options.since)
    if options.list:
        figures = measure(tree)
        print("", "private, used once:", *figures.used_once, sep="\n")
        print("", "docstrings without news:", *figures.repeating, sep="\n")


if __name__ == "__main__":
    main()
