from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from asya.local.log_lines import About, Entry, parse, written
from asya.local.logs import LogHandler, RotatingLog, tail

TIME = "2026-11-23T18:25:00.123Z"
WHOLE = About(TIME, 4711, "echo", "WARNING", "e-1")


def test_text_has_time_pid_and_what_is_known() -> None:
    assert written("text", About(TIME, 4711), b"a\nb") == (
        f"{TIME} 4711 | a\n{TIME} 4711 | b\n".encode()
    )
    assert written("text", About(TIME, 4711, "echo", envelope="e-1"), b"a") == (
        f"{TIME} 4711 e-1 | a\n".encode()
    )
    assert written("text", WHOLE, b"a") == f"{TIME} 4711 e-1 | WARNING echo: a\n".encode()


def test_json_is_one_object_per_line() -> None:
    about = About(TIME, 4711, "echo", envelope="e-1")
    lines = written("json", about, b"a\n\xff|{}").splitlines()
    whole = {"time": TIME, "pid": 4711, "actor": "echo", "envelope_id": "e-1"}
    assert [json.loads(line) for line in lines] == [
        whole | {"text": "a"},
        whole | {"text": "\\xff|{}"},
    ]
    assert json.loads(written("json", About(TIME, 1), b"")) == {"time": TIME, "pid": 1, "text": ""}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("envelope", ["", "e-1", "a b | c", "ä/ö%20", "{}"])
def test_what_was_written_can_be_read(form: Any, envelope: Any) -> None:
    about = About(TIME, 4711, "echo", "", envelope)
    found = parse(written(form, about, b"12 | words"))
    actor = "echo" if form == "json" else ""
    assert found == Entry(TIME, 4711, "12 | words", actor, "", envelope)


def test_the_mesh_s_own_lines_have_a_level_and_perhaps_an_actor() -> None:
    assert parse(written("text", WHOLE, b"a: b"), own=True) == Entry(
        TIME, 4711, "a: b", "echo", "WARNING", "e-1"
    )
    plain = written("text", About(TIME, 1, level="INFO"), b"Stopping now")
    assert parse(plain, own=True) == Entry(TIME, 1, "Stopping now", "", "INFO")
    assert parse(b"(5 bytes were lost: the disk refused)\n") is None
    assert parse(b'{"text": 1}') is None


def test_a_log_asks_whose_the_line_is(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "a.log", 10_000, form="json", actor="echo")
    log.whose = {7: "e-1"}.get
    log.write_lines(TIME, 7, b"one")
    log.write_lines(TIME, 8, b"two")
    log.close()
    found = [parse(line) for line in tail(log.path, 9)]
    assert found == [
        Entry(TIME, 7, "one", "echo", "", "e-1"),
        Entry(TIME, 8, "two", "echo"),
    ]


def test_a_record_says_what_it_is_about(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "x-mesh.log", 10_000)
    record = logging.LogRecord("asya.x", logging.WARNING, "p", 1, "not %s\nyet", ("now",), None)
    record.actor, record.envelope = "echo", "e-1"
    LogHandler(log).emit(record)
    log.close()
    found = [parse(line, own=True) for line in tail(log.path, 9)]
    assert [(each.level, each.actor, each.envelope, each.text) for each in found if each] == [
        ("WARNING", "echo", "e-1", "not now"),
        ("WARNING", "echo", "e-1", "yet"),
    ]


def test_a_record_is_one_object_of_json(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "x-mesh.log", 10_000, form="json")
    LogHandler(log).emit(logging.LogRecord("asya.x", logging.ERROR, "p", 1, "a\n  b", (), None))
    log.close()
    (line,) = tail(log.path, 9)
    found = parse(line, own=True)
    assert found is not None
    assert (found.level, found.text) == ("ERROR", "a\n  b")


def test_a_record_of_a_library_has_its_name(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "x-mesh.log", 10_000)
    handler = LogHandler(log)
    handler.emit(logging.LogRecord("nats.aio", logging.ERROR, "p", 1, "gone", (), None))
    log.close()
    assert handler.formatter is not None, "else `logging.basicConfig` gives it one of its own"
    found = parse(tail(log.path, 1)[0], own=True)
    assert found is not None
    assert (found.level, found.text) == ("ERROR", "(nats.aio) gone")
