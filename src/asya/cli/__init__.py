"""The command line: one file per command, and `main`, the entry point of `asya`."""

from asya.cli.app import main

__all__ = ["main"]
