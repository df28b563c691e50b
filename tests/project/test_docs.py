"""Documentation is checked like code: linked, complete, and its examples hold."""

import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from asya import manifest
from asya.cli import app
from asya.envelope import STATUS_FIELDS

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!`)\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    """Texts of the code blocks of these languages."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [textwrap.dedent(body) for language, body in found if language in languages]


def anchor(heading: str) -> str:
    """The anchor that a heading gets."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.strip().replace(" ", "-")


def commands(page: Path) -> Iterator[str]:
    """Every command line of ours that a page shows, without its comment."""
    for block in blocks(page, "", "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(\$ )?asya (?!mesh at )[a-z]", line):  # what asya up prints is none
                yield line.removeprefix("$ ")


def options_of(function: Callable[..., None]) -> set[str]:
    """The options that a command takes, as Typer reads them."""
    import typer

    app_ = typer.Typer(add_completion=False)
    app_.command()(function)
    names = {"--help"}
    for parameter in typer.main.get_command(app_).params:
        names.update(parameter.opts, parameter.secondary_opts)
    return {name for name in names if name.startswith("-")}


def test_every_page_is_reached_from_the_index(root: Path) -> None:
    start = root / "docs" / "index.md"
    reached, left = set(), [start]
    while left:
        page = left.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            linked = (page.parent / target.partition("#")[0]).resolve()
            if linked.suffix == ".md" and linked.is_relative_to(root / "docs") and linked.exists():
                left.append(linked)
    assert set((root / "docs").rglob("*.md")) - reached == set()


def test_links_lead_somewhere(root: Path, pages: list[Path]) -> None:
    broken = []
    for page in pages:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            path, _, heading = target.partition("#")
            if "://" in target:
                continue
            linked = (page.parent / path).resolve() if path else page
            if not linked.exists():
                broken.append(f"{page.relative_to(root)}: {target}")
            elif heading:
                headings = HEADING.findall(linked.read_text(encoding="utf-8"))
                if heading not in map(anchor, headings):
                    broken.append(f"{page.relative_to(root)}: {target}")
    assert broken == []


def test_python_examples_run(
    root: Path, pages: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = []
    for page in pages:
        module = ModuleType("docs_example")  # dataclasses and the like look up their module
        monkeypatch.setitem(sys.modules, module.__name__, module)
        for code in blocks(page, "python"):
            try:
                exec(compile(code, str(page), "exec"), vars(module))
            except Exception as error:
                broken.append(f"{page.relative_to(root)}: {type(error).__name__}: {error}")
        for name, value in list(vars(module).items()):
            if name.startswith("test_") and inspect.isfunction(value):
                value()
    assert broken == []


def test_manifests_in_the_docs_are_valid(root: Path, pages: list[Path], tmp_path: Path) -> None:
    for page in pages:
        for number, text in enumerate(blocks(page, "yaml")):
            if "apiVersion" in text:
                file = tmp_path / f"{page.stem}-{number}.yaml"
                file.write_text(text)
                manifest.load([file])


def test_json_in_the_docs_is_json(root: Path, pages: list[Path]) -> None:
    broken = []
    for page in pages:
        for text in blocks(page, "json"):
            try:
                json.loads(text)
            except ValueError as error:
                broken.append(f"{page.relative_to(root)}: {error}: {text[:60]}")
    assert broken == []


def test_commands_in_the_docs_exist(root: Path, pages: list[Path]) -> None:
    broken = []
    for page in pages:
        for line in commands(page):
            name, words = app.find(shlex.split(line, comments=True)[1:])
            if name not in app.COMMANDS:
                broken.append(f"{page.relative_to(root)}: {line}")
                continue
            if not app.COMMANDS[name].typed:
                continue
            known = options_of(app.load(app.COMMANDS[name]))
            used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            if used - known:
                broken.append(f"{page.relative_to(root)}: {line}: {sorted(used - known)}")
    assert broken == []


@pytest.mark.parametrize("name", [n for n, command in app.COMMANDS.items() if command.typed])
def test_the_reference_names_every_option(name: str, root: Path) -> None:
    page = (root / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `asya {name}\b.*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert section, f"docs/reference/cli.md has no section on asya {name}"
    options = options_of(app.load(app.COMMANDS[name])) - {"--help"}
    # Options that are settings stand in the table that is made from them.
    text = section[0] + (root / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    missing = {option for option in options if f"`{option}" not in text}
    assert missing == set()


def test_generated_pages_are_up_to_date(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, root / "docs" / "generate.py", "--check"],
        check=False, capture_output=True, text=True, timeout=60, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_handlers_page_names_the_fields_of_status_that_are_the_meshs(root: Path) -> None:
    text = (root / "docs/reference/handlers.md").read_text()
    rule = text[text.index("fields of `.status`") : text.index("Only other keys travel on")]
    assert set(re.findall(r"`([a-z_]+)`", rule)) == STATUS_FIELDS


def test_glossary_words_stand_once_and_in_order(root: Path) -> None:
    page = (root / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", page, re.MULTILINE)
    assert words == sorted(set(words), key=str.lower)


def test_glossary_words_are_defined_in_a_module(root: Path) -> None:
    page = (root / "docs" / "glossary.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| \*\*(.+?)\*\* \| .+ \| `([a-z_.]+)` \|$", page, re.MULTILINE))
    missing = {word: name for word, name in named.items() if importlib.util.find_spec(name) is None}
    assert named.keys() == set(re.findall(r"^\| \*\*(.+?)\*\*", page, re.MULTILINE))
    assert missing == {}


def test_every_error_of_ours_is_drawn_in_the_tree(root: Path) -> None:
    from asya import errors

    drawn = errors.__doc__ or ""
    missing = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.AsyaError) and name not in drawn
    ]
    assert missing == []


def test_changes_are_fragments_of_known_kinds(root: Path) -> None:
    kinds = {"feature", "bugfix", "doc", "removal", "misc"}
    strange = [
        path.name
        for path in (root / "changes").iterdir()
        if path.name not in {"README.md", "template.md"}
        and not (path.suffix == ".md" and path.stem.rpartition(".")[2] in kinds)
    ]
    assert strange == []
