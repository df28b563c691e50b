"""Asya: an actor mesh for AI pipelines and agents.

Handlers import nothing of this package; see `docs/reference/handlers.md`.
"""

__version__ = "0.1.0"
