import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from asya.document import FILE_MAX_BYTES, NODES_MAX, documents, dotted, shown


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Any]:
    def read_text(text: bytes | str) -> tuple[list[Any], ...]:
        path = tmp_path / "a.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        found, problems = documents(path, "a.yaml")
        data = [document.read() for document in found]
        lines = [str(problem) for problem in problems]
        lines += [str(problem) for document in found for problem in document.problems]
        return found, data, lines

    return read_text


def test_values_know_their_lines(read: Callable[..., Any]) -> None:
    (document,), (data,), problems = read("a: 1\nb:\n  - x\n  - c: y\n")
    assert (data, problems) == ({"a": 1, "b": ["x", {"c": "y"}]}, [])
    assert document.line_of(("a",)) == 1
    assert document.line_of(("b",)) == 2
    assert document.line_of(("b", 1, "c")) == 4
    assert document.line_of(("b", 1, "missing")) == 4


def test_documents_of_one_file_count_lines_from_its_top(read: Callable[..., Any]) -> None:
    found, data, problems = read("---\na: 1\n---\n---\nb: 2\n...\n")
    assert (data, problems) == ([{"a": 1}, {"b": 2}], [])
    assert [document.line for document in found] == [2, 5]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-11-23", "2026-11-23"),
        ("2026-11-23 10:00:00", "2026-11-23 10:00:00"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("0x10", 16),
        ("1_000", 1000),
        ("~", None),
        ("yes", True),
        ("1.5", 1.5),
        ("=", "="),
        ("'<<'", "<<"),
        ("|\n    a\n    b\n", "a\nb\n"),
    ],
)
def test_scalars_are_json_values(
    read: Callable[..., Any], text: str, value: bool | float | str | None
) -> None:
    _, (data,), problems = read(f"a: {text}")
    assert (data, problems) == ({"a": value}, [])
    assert type(data["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: .nan", "a.yaml:1: a: "),
        ("a: [.inf]", "a.yaml:1: a[0]: "),
        ("a: !!int abc", 'a.yaml:1: a: "abc" cannot be read as int'),
        ("a: !!bool abc", 'a.yaml:1: a: "abc" cannot be read as bool'),
        ("a: !Ref x", "a.yaml:1: a: the tag !Ref is not supported"),
        ("a: !!binary aGk=", "the tag tag:yaml.org,2002:binary is not supported"),
        ("a: !!set {x}", "the tag tag:yaml.org,2002:set is not supported"),
        ("a: !!python/object/apply:os.system [ls]", "os.system is not supported"),
        ("b: 1\na:\n  c: 1\n  c: 2", "a.yaml:4: a.c: "),
        ("1: x", 'a.yaml:1: expected a string as key (write it in quotes: "1")'),
        ("on: x", 'a.yaml:1: expected a string as key (write it in quotes: "on")'),
        ("[a]: x", "a.yaml:1: expected a string as key"),
        ("a: {<<: 5}", "a.yaml:1: a.<<: expected a mapping, or a list of mappings"),
        ("a: [", "a.yaml:1: is not YAML: "),
        ("a: 1\n\tb: 2", "a.yaml:2: is not YAML: "),
        ("a: 1\nb: {", "a.yaml:2: is not YAML: "),
        ("a: *x", "a.yaml:1: the alias *x "),
        ("a: &x [*x]", "a.yaml:1: the alias *x "),
        ("a: b: c", "a.yaml:1: is not YAML: mapping values are not allowed in this context"),
        ("a: \x01", "a.yaml:1: is not YAML: "),
        (b"a: 1\nb: \xff", "a.yaml:2: is not UTF-8"),
        ("[" * 100_000, "a.yaml:1: is nested more than 100 levels deep"),
        ("{a: " * 101, "a.yaml:1: is nested more than 100 levels deep"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    read: Callable[..., Any], text: bytes | str, problem: str
) -> None:
    _, _, problems = read(text)
    assert len(problems) == 1
    assert problem in problems[0]


def test_aliases_and_merges_work(read: Callable[..., Any]) -> None:
    text = "base: &b {a: 1, b: 2}\nmine: {<<: *b, b: 3}\ntwo: {<<: [{a: 0, c: 9}, *b]}\nagain: *b\n"
    _, (data,), problems = read(text)
    assert problems == []
    assert data["mine"] == {"a": 1, "b": 3}
    assert data["two"] == {"a": 0, "b": 2, "c": 9}
    assert data["again"] == {"a": 1, "b": 2}


def test_a_merged_value_has_a_line_too(read: Callable[..., Any]) -> None:
    (document,), _, _ = read("base: &b\n  a: 1\nmine:\n  <<: *b\n")
    assert document.line_of(("mine", "a")) == 2


def test_a_bomb_of_aliases_is_refused_at_once(read: Callable[..., Any]) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    _, _, problems = read("\n".join(lines))
    assert problems == [
        f"a.yaml:5: has more than {NODES_MAX} values, counting each use of an alias"
    ]


def test_documents_before_a_syntax_error_are_kept(read: Callable[..., Any]) -> None:
    _, data, problems = read("a: 1\n---\nb: [\n")
    assert data == [{"a": 1}]
    assert problems[0].startswith("a.yaml:3: is not YAML")


def test_a_syntax_error_tells_where_the_broken_part_begins(read: Callable[..., Any]) -> None:
    _, _, (problem,) = read("a: [\n1,\nb: c: d")
    assert problem.startswith("a.yaml:3: is not YAML")
    _, _, (problem,) = read("a: 'x\n\nb")
    assert problem.endswith("(while scanning a quoted scalar that begins in line 1)")


def test_a_file_that_is_too_large_is_not_read(read: Callable[..., Any]) -> None:
    found, _, problems = read(b"#" * (FILE_MAX_BYTES + 1))
    assert found == []
    assert f"a YAML file may have {FILE_MAX_BYTES}" in problems[0]


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert [str(p) for p in documents(tmp_path / "x.yaml", "x.yaml")[1]] == [
        "x.yaml: cannot be read: No such file or directory"
    ]


def test_byte_order_mark_and_crlf_are_fine(read: Callable[..., Any]) -> None:
    _, data, problems = read(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert (data, problems) == ([{"a": 1, "b": 2}], [])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=4))
def test_what_yaml_dumps_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("yaml") / "a.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=False), "utf-8")
    found, problems = documents(path)
    assert problems == []
    assert [document.read() for document in found] == [data]
    assert found[0].problems == []


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("yaml") / "a.yaml"
    path.write_bytes(data)
    found, _ = documents(path)
    for document in found:
        json.dumps(document.read(), allow_nan=False)


@pytest.mark.parametrize(
    ("loc", "text"),
    [
        (("spec", "rules", 0, "policy"), "spec.rules[0].policy"),
        (("limits", "nvidia.com/gpu"), 'limits["nvidia.com/gpu"]'),
        (("a", ""), 'a[""]'),
        ((), ""),
    ],
)
def test_paths_are_written_as_people_do(loc: tuple[Any, ...], text: str) -> None:
    assert dotted(loc) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        ("two", '"two"'),
        (True, "true"),
        (5, "5"),
        ([1], "a list"),
        ([], "an empty list"),
        ({}, "an empty mapping"),
        ("x" * 100, '"' + "x" * 59 + '…"'),
    ],
)
def test_values_are_shown_short(value: Any, text: str) -> None:
    assert shown(value) == text
