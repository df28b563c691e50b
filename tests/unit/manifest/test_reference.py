import importlib.util
import types
from pathlib import Path

import pytest

from asya.manifest import json_schema, reference_markdown
from asya.manifest.reference import markdown

GENERATE = Path(__file__).resolve().parents[3] / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generate() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", GENERATE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_pages_say_what_the_code_says(generate: types.ModuleType) -> None:
    assert generate.stale() == [], "run: python docs/generate.py"


def test_a_page_that_differs_or_is_missing_is_named(
    generate: types.ModuleType, tmp_path: Path
) -> None:
    assert generate.stale(tmp_path) == list(generate.PAGES)
    for page, make in generate.PAGES.items():
        path = tmp_path / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), "utf-8")
    assert generate.stale(tmp_path) == []
    (tmp_path / "reference/settings.md").write_text("edited by hand")
    assert generate.stale(tmp_path) == ["reference/settings.md"]


def test_nested_fields_stand_by_their_path() -> None:
    rows = reference_markdown("AsyncActor")
    assert "| `spec.resiliency.policies.*.initialDelay` | duration | `1s` |" in rows
    assert "| `spec.secretRefs[].keys[].envVar` | text | required |" in rows
    assert "| `spec.scaling.maxReplicaCount` | whole number 1 to 10000 | `10` |" in rows


def test_a_table_cell_keeps_its_bars() -> None:
    schema = {"properties": {"a": {"type": "string", "description": "x | y"}}}
    assert markdown(schema).splitlines()[-1] == "| `a` | text |  | x \\| y |"


def test_an_unknown_kind_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        json_schema("Deployment")
