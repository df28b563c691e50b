"""`asya schedules`, and the options of send that say when and how often."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from asya.cli.app import EXIT_USAGE, run
from asya.cli.send_options import Terms, begin, read_terms
from asya.errors import UsageError

if TYPE_CHECKING:
    from tests.unit.cli.conftest import ScriptedGateway


NIGHTLY = {
    "name": "nightly", "flow": None, "route": ["report", "mail"], "when": "30 6 * * *",
    "timezone": "Europe/Berlin", "missed_runs": "last", "concurrency_policy": "allow",
    "suspended": False, "next_at": "2026-01-02T05:30:00.000Z", "last_at": None, "last_id": None,
    "last_error": None,
}  # fmt: skip


@pytest.fixture
def mesh(gateway: "ScriptedGateway", monkeypatch: pytest.MonkeyPatch) -> "ScriptedGateway":
    monkeypatch.setenv("ASYA_URL", gateway.url)
    return gateway


def test_the_list_is_a_table(
    mesh: "ScriptedGateway", reply: type[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    paused = NIGHTLY | {
        "name": "tick", "flow": "search", "when": "every 5m", "timezone": "UTC", "suspended": True,
        "next_at": None, "last_at": "2026-01-01T00:05:00.000Z", "last_id": "e1",
        "last_error": "no run at 2026-01-01T00:10:00.000Z: the run before, e1, has not ended",
    }  # fmt: skip
    mesh.on("GET /v1/schedules", reply(body=json.dumps({"schedules": [NIGHTLY, paused]}).encode()))
    assert run(["schedules"]) == 0
    head, first, second = capfd.readouterr().out.splitlines()
    assert re.split(r"  +", head)[:4] == ["SCHEDULE", "SENDS TO", "WHEN", "NEXT"]
    assert re.split(r"  +", first) == [
        "nightly", "report,mail", "30 6 * * * Europe/Berlin", "2026-01-02T05:30:00Z", "-", "-",
    ]  # fmt: skip
    assert re.split(r"  +", second)[1:6] == [
        "search", "every 5m", "suspended", "2026-01-01T00:05:00Z", "e1",
    ]  # fmt: skip
    assert run(["schedules", "list", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["schedules"][0] == NIGHTLY


def test_no_schedules_say_so_and_print_nothing(
    mesh: "ScriptedGateway", reply: type[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    mesh.on("GET /v1/schedules", reply(body=b'{"schedules": []}'))
    assert run(["schedules"]) == 0
    assert capfd.readouterr() == ("", "asya: this mesh has no schedules\n")


def test_run_prints_the_id_and_is_safe_to_send_again(
    mesh: "ScriptedGateway", reply: type[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    mesh.on("POST /v1/schedules/nightly/run", reply(202, b'{"id": "e7", "status": "pending"}'))
    assert run(["schedules", "run", "nightly"]) == 0
    assert capfd.readouterr().out == "e7\n"
    (request,) = mesh.seen("POST")
    assert re.search(r"\?id=[0-9a-f-]{36}$", request.path)


def test_suspend_and_resume(
    mesh: "ScriptedGateway", reply: type[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    for action, said in (("suspend", "suspended"), ("resume", "on")):
        answer = NIGHTLY | {"suspended": action == "suspend"}
        mesh.on(f"POST /v1/schedules/nightly/{action}", reply(body=json.dumps(answer).encode()))
        assert run(["schedules", action, "nightly"]) == 0
        assert capfd.readouterr() == ("", f"asya: nightly is {said}\n")


@pytest.mark.parametrize("arguments", [["run"], ["suspend"], ["list", "x"], ["stop", "x"]])
def test_wrong_use_exits_with_2(
    mesh: "ScriptedGateway", arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["schedules", *arguments]) == EXIT_USAGE
    assert mesh.requests == []


def test_a_time_without_an_offset_is_local() -> None:
    now = datetime(2026, 1, 1, 20, tzinfo=timezone(timedelta(hours=1)))
    assert begin("21:30", now) == "2026-01-01T21:30:00+01:00"
    assert begin("18:30", now) == "2026-01-02T18:30:00+01:00"
    assert begin("2026-02-01T00:00:00Z", now) == "2026-02-01T00:00:00+00:00"
    local = datetime.fromisoformat(begin("2026-02-01T18:30", now))
    assert local == datetime(2026, 2, 1, 18, 30).astimezone(UTC)
    with pytest.raises(UsageError, match="for a duration there is --delay"):
        begin("10m", now)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"at": "18:30", "delay": "10m"}, "--at and --delay"),
        ({"key_policy": "reject"}, "--key-life need --key"),
        ({"key_life": "1h"}, "--key-life need --key"),
        ({"key": ""}, "printable ASCII"),
        ({"key": "schlüssel"}, "printable ASCII"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        read_terms(None, options.pop("at", None), options.pop("delay", None), **options)


def test_terms_as_the_gateway_takes_them() -> None:
    terms = Terms("30s", None, "10m", 'a"b', "reject", "active")
    assert terms.fields == {"timeout": "30s", "delay": "10m"}
    assert terms.headers == {
        "Idempotency-Key": '"a\\"b"',
        "Idempotency-Policy": "reject",
        "Idempotency-Life": "active",
    }


def test_send_with_a_key_that_is_held_prints_the_holder(
    mesh: "ScriptedGateway", reply: type[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    mesh.on("GET /v1/flows", reply(body=b'{"flows": []}'))
    mesh.on("POST /v1/envelopes", reply(202, b'{"id": "e1", "status": "running"}'))
    assert run(["send", "a,b", "1", "--key", "order-17", "--delay", "10m"]) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("e1\n", "asya: the envelope e1 holds this key; sent nothing\n")
    (request,) = mesh.seen("POST /v1/envelopes")
    assert request.headers["Idempotency-Key"] == '"order-17"'
    assert json.loads(request.body)["delay"] == "10m"
