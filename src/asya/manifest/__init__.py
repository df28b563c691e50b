"""The user's YAML: AsyncActor, Flow and Schedule, loaded, checked, described.

One model (`model`) gives validation, JSON Schema and the reference in the docs. Everything that
others need is here; they import nothing from the modules of this package.
"""

from asya.durations import format_duration, parse_duration
from asya.manifest.functions import actor_from_function
from asya.manifest.loading import Manifests, load
from asya.manifest.model import API_VERSION, AsyncActor, Expose, Flow, Schedule, Source
from asya.manifest.reference import json_schema, reference_markdown

__all__ = [
    "API_VERSION",
    "AsyncActor",
    "Expose",
    "Flow",
    "Manifests",
    "Schedule",
    "Source",
    "actor_from_function",
    "format_duration",
    "json_schema",
    "load",
    "parse_duration",
    "reference_markdown",
]
