"""Packs this package into one file that any `python3` of 3.9 or later runs: `asya-runtime.pyz`.

For images that have Python and nothing of ours: `python3 -I asya-runtime.pyz`. Called by the build
of releases and by whatever puts the runtime into a container.
"""

from __future__ import annotations

import os
import pathlib
import zipfile

import asya

_MAIN = """\
import sys

from asya.runtime.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Of all members, so that the same sources make the same bytes."""


def build_zipapp(target: pathlib.Path) -> pathlib.Path:
    """Write the runtime as an executable zipapp to `target`, whole or not at all.

    The same sources give the same bytes. Raises OSError where `target` cannot be written.
    """
    here = pathlib.Path(__file__).parent
    members = {f"asya/runtime/{file.name}": file.read_bytes() for file in here.glob("*.py")}
    package = f'"""The part of Asya that runs handlers."""\n\n__version__ = "{asya.__version__}"\n'
    members["asya/__init__.py"] = package.encode()
    members["__main__.py"] = _MAIN.encode()
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(b"#!/usr/bin/env python3\n")
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name in sorted(members):
                    archive.writestr(zipfile.ZipInfo(name, _EPOCH), members[name])
        unfinished.chmod(0o755)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target
