"""The task store in one SQLite file."""
