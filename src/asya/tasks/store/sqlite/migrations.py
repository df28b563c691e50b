"""Brings the schema of a database file up to date.

The steps are the numbered files of the folder `migrations`; `PRAGMA user_version` says which were
made. A step that was released is never changed: data folders were made by it.
"""

from __future__ import annotations

import sqlite3
from importlib import resources

from asya.errors import StoreError
from asya.tasks.store.sqlite.dead_letters import sql_fingerprint


def migrations() -> list[tuple[int, str]]:
    """The numbered SQL files of this package, in their order."""
    folder = resources.files("asya.tasks.store.sqlite") / "migrations"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted((int(entry.name.split("_")[0]), entry.read_text("utf-8")) for entry in files)


def migrate(connection: sqlite3.Connection, place: str) -> None:
    """Bring the schema up to date, each file in a transaction of its own.

    Raises:
        StoreError: The file was made by a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    steps = migrations()
    newest = steps[-1][0]
    if version > newest:
        raise StoreError(
            f"the task store {place} was made by a newer version of Asya (schema {version}, this "
            f"version knows {newest}); upgrade, or give another folder with --data"
        )
    connection.create_function("asya_fingerprint", 2, sql_fingerprint, deterministic=True)
    for number, sql in steps:
        if number > version:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version={number};\nCOMMIT;"
            )
