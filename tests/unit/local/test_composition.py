from __future__ import annotations

import ast
from pathlib import Path

import asya.local

LOOP = "asya.sidecar"
PURE = ("asya.sidecar.snapshot", "asya.sidecar.capture")
"""Values that a sidecar gives or takes; everybody may know them."""


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(each.name for each in node.names)
    return found


def test_only_the_composition_root_knows_the_sidecars_loop() -> None:
    """So a mesh can be composed of other sidecars, as those of another process."""
    folder = Path(str(asya.local.__file__)).parent
    users = {
        path.name
        for path in folder.rglob("*.py")
        for name in imported(path)
        if (name == LOOP or name.startswith(f"{LOOP}.")) and name not in PURE
    }
    assert users == {"composition.py"}
