from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dotenv.parser import parse_stream

from asya.codes import Code
from asya.errors import UsageError
from asya.local.environment import (
    memory_bytes,
    parse_dotenv,
    read_dotenv,
    replica_environment,
)


def actor(env: dict[str, Any] | None = None, secrets: list[Any] | None = None) -> Any:
    """The fields of a manifest that matter here."""
    return SimpleNamespace(
        name="embedder",
        folder=Path("/project"),
        spec=SimpleNamespace(
            handler="handler.embed",
            concurrency=2,
            env=[
                SimpleNamespace(name=name, value=value, value_from=None)
                for name, value in (env or {}).items()
            ],
            secret_refs=secrets or [],
        ),
    )


def secret(name: str, key: str, variable: str) -> Any:
    return SimpleNamespace(secret_name=name, keys=[SimpleNamespace(key=key, env_var=variable)])


def environment(
    of: Any, environ: dict[str, str] | None = None, dotenv: dict[str, str] | None = None
) -> dict[str, str]:
    return replica_environment(
        of, environ or {}, dotenv or {}, socket=Path("/run/1.sock"), path=[Path("/project")]
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1", {"A": "1"}),
        ("A = 1 ", {"A": "1"}),
        ("export A=1\n\n# comment\n  B=2", {"A": "1", "B": "2"}),
        ("A=one two # comment", {"A": "one two"}),
        ("A=a#b", {"A": "a#b"}),
        ("A=#fff", {"A": "#fff"}),
        ("A= # all comment", {"A": ""}),
        ("A=", {"A": ""}),
        ("A=\nB=2", {"A": "", "B": "2"}),
        ("A='x # \\n y'", {"A": "x # \\n y"}),
        (r'A="x\n\"y\" \\ z" # c', {"A": 'x\n"y" \\ z'}),
        (r"A='it\'s \\'", {"A": "it's \\"}),
        (r'A="\d \$"', {"A": r"\d \$"}),
        ("A=it's", {"A": "it's"}),
        ('A=say "x"', {"A": 'say "x"'}),
        ("'A'=1", {"A": "1"}),
        ("A.b-c=1", {"A.b-c": "1"}),
        ('A="two\nlines"\nB=2', {"A": "two\nlines", "B": "2"}),
        ("A='two\nlines'", {"A": "two\nlines"}),
        ("A=$HOME", {"A": "$HOME"}),
        ("A=1\nB=${A}", {"A": "1", "B": "${A}"}),
        ('A=1\nB="x${A:-y}"', {"A": "1", "B": "x${A:-y}"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=ü", {"A": "ü"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=b=c", {"A": "b=c"}),
        ("", {}),
    ],
)
def test_the_usual_forms_of_a_dotenv_file(text: str, expected: dict[str, str]) -> None:
    assert parse_dotenv(text, ".env") == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A=1\nno assignment", 2),
        ("=1", 1),
        ("A='open", 1),
        ('\nA="open\nB=2', 2),
        ("A='x' y", 1),
        ("1A=2", 1),
        ("KEY", 1),
        ("\n\n# comment\n\nexport", 5),
        ("A='two\nlines'\nB", 3),
    ],
)
def test_a_line_that_is_not_an_assignment_is_named(text: str, line: int) -> None:
    with pytest.raises(UsageError, match=rf"^shop/\.env:{line}: ") as caught:
        parse_dotenv(text, "shop/.env")
    assert caught.value.code == Code.DOTENV_UNREADABLE


def test_what_is_used_of_the_parser_is_not_exported_by_its_package() -> None:
    """`dotenv.parser` is internal, hence the upper bound in pyproject.toml.

    `dotenv_values` has no errors: it leaves out a line that it cannot read.
    """
    (found,) = parse_stream(io.StringIO("export A='1'\n"))
    assert (found.key, found.value, found.error) == ("A", "1", False)
    assert (found.original.line, found.original.string) == (1, "export A='1'\n")


def test_the_file_beside_the_manifest_goes_first(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    for folder, text in ((near, "A=near"), (far, "A=far\nB=far")):
        folder.mkdir()
        (folder / ".env").write_text(text)
    assert read_dotenv([near, far, tmp_path]) == {"A": "near", "B": "far"}


def test_a_dotenv_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff")
    with pytest.raises(UsageError, match=r"\.env cannot be read"):
        read_dotenv([tmp_path])


def test_a_replica_sees_the_environment_but_nothing_of_the_mesh() -> None:
    seen = environment(actor(), {"HOME": "/root", "ASYA_DATA": "/x", "ASYA_HANDLER": "evil.f"})
    assert seen == {
        "HOME": "/root",
        "PYTHONUNBUFFERED": "1",
        "ASYA_SOCKET": "/run/1.sock",
        "ASYA_HANDLER": "handler.embed",
        "ASYA_ACTOR": "embedder",
        "ASYA_CONCURRENCY": "2",
        "ASYA_PATH": "/project",
    }


def test_the_manifest_goes_before_the_environment() -> None:
    assert environment(actor({"LEVEL": "debug", "EMPTY": None}), {"LEVEL": "info"})["LEVEL"] == (
        "debug"
    )
    assert environment(actor({"EMPTY": None}), {"EMPTY": "x"})["EMPTY"] == ""


def test_a_secret_comes_from_the_environment_or_the_file() -> None:
    wants = actor(secrets=[secret("openai", "key", "API_KEY")])
    assert environment(wants, {"API_KEY": "a"}, {"API_KEY": "b"})["API_KEY"] == "a"
    assert environment(wants, {}, {"API_KEY": "b"})["API_KEY"] == "b"


def test_its_own_name_tells_two_secrets_of_one_variable_apart() -> None:
    wants = actor(secrets=[secret("open-ai", "api.key", "API_KEY")])
    assert environment(wants, {"API_KEY": "a"}, {"OPEN_AI_API_KEY": "b"})["API_KEY"] == "b"


def test_what_the_file_holds_goes_to_nobody_who_did_not_ask() -> None:
    assert "API_KEY" not in environment(actor(), {}, {"API_KEY": "b"})


def test_every_missing_secret_is_named_with_actor_and_key() -> None:
    wants = actor(secrets=[secret("openai", "key", "API_KEY"), secret("hf", "token", "HF_TOKEN")])
    with pytest.raises(UsageError) as caught:
        environment(wants)
    first, second = str(caught.value).splitlines()
    assert "actor embedder" in first
    assert "openai" in first
    assert "key key" in first
    assert "set API_KEY" in first
    assert "HF_TOKEN" in second


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("512Mi", 512 * 2**20),
        ("1.5G", 1_500_000_000),
        ("1e9", 10**9),
        (1024, 1024),
        ("100k", 100_000),
        ("2Ei", 2 * 2**60),
    ],
)
def test_quantities_of_memory(quantity: str | int, expected: int) -> None:
    assert memory_bytes(quantity) == expected


@pytest.mark.parametrize("quantity", ["", "lots", "1X", "-1Gi", "1 Gi B"])
def test_what_is_no_quantity_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="512Mi"):
        memory_bytes(quantity)
