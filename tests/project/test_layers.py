"""What may import what, beyond the contracts of .importlinter, and the drawing of them."""

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DRIVERS = {
    "nats": ("src/asya/transports/nats/",),
    "aiobotocore": ("src/asya/transports/sqs/connection.py",),
    "uvicorn": ("src/asya/gateway/server.py",),
    "sqlite3": ("src/asya/tasks/store/sqlite/",),
    "starlette": ("src/asya/gateway/",),
    "jsonschema": ("src/asya/tasks/input_schema.py", "src/asya/manifest/checks.py"),
    "typer": ("src/asya/cli/",),
    "rich": ("src/asya/cli/",),
    "psutil": ("src/asya/local/", "src/asya/gateway/server.py"),
    "dotenv": ("src/asya/local/environment.py",),
    "cronsim": ("src/asya/timetable.py",),
    "prometheus_client": ("src/asya/telemetry/exposition.py",),
    "opentelemetry": ("src/asya/telemetry/otel.py",),
    "yaml": ("src/asya/document.py",),
    "google": ("src/asya/transports/pubsub/library.py",),
    "grpc": ("src/asya/transports/pubsub/library.py",),
    "obstore": ("src/asya/blobs/object_store.py",),
}
"""Third-party module → the only places that know it, as prefixes of paths."""

ENVIRON = ("src/asya/settings.py", "src/asya/runtime/__main__.py", "src/asya/cli/")
"""Entry points: everything below gets what it needs as arguments."""


def imports(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def test_the_runtime_imports_the_standard_library_only(
    root: Path, source_files: list[Path]
) -> None:
    strange = [
        f"{path.relative_to(root)}: {name}"
        for path in source_files
        if path.is_relative_to(root / "src/asya/runtime")
        for name in imports(path)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and name != "asya"  # the version; nothing else is in there
        and not f"{name}.".startswith("asya.runtime.")
    ]
    assert strange == []


@pytest.mark.parametrize("library", DRIVERS)
def test_a_library_is_known_in_one_place(
    library: str, root: Path, source_files: list[Path]
) -> None:
    users = {
        str(path.relative_to(root))
        for path in source_files
        if any(name.partition(".")[0] == library for name in imports(path))
        and "src/asya/testing" not in str(path)
    }
    assert users, f"nobody uses {library} any more; take it off the list"
    assert {user for user in users if not user.startswith(DRIVERS[library])} == set()


def test_the_environment_is_read_at_entry_points_only(root: Path, source_files: list[Path]) -> None:
    readers = {
        str(path.relative_to(root))
        for path in source_files
        if re.search(
            r"^[^#`]*\bos\.(environ|getenv)\b", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {reader for reader in readers if not reader.startswith(ENVIRON)} == set()


def test_architecture_shows_the_layers_that_are_enforced(root: Path) -> None:
    config = configparser.ConfigParser()
    config.read(root / ".importlinter")
    enforced = [
        line.strip()
        for line in config["importlinter:contract:layers"]["layers"].splitlines()
        if line.strip()
    ]
    page = (root / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = re.search(r"^```layers\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert drawn, "ARCHITECTURE.md has no block ```layers"
    assert [line.split("  ")[0].strip() for line in drawn[1].splitlines()] == enforced


def test_architecture_points_at_files_that_exist(root: Path) -> None:
    page = (root / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = page[page.index("## Where to look") :]
    named = re.findall(r"`([a-z_/]+(?:\.py|/))`", table)
    assert named
    missing = [
        name
        for name in named
        if not (root / "src/asya" / name).exists() and not (root / name).exists()
    ]
    assert missing == []
