"""`asya dead`, `asya pull`: what is asked of the gateway, what is printed, exit codes."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from asya.cli import app

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Reply, ScriptedGateway


ERROR = {"type": "ValueError", "message": "row 7 is bad\nmore", "traceback": None, "reason": None}
GROUP = {
    "fingerprint": "abc",
    "actor": "price",
    "reasons": ["PolicyExhausted"],
    "count": 20,
    "first_at": "2026-01-01T10:00:00.000Z",
    "last_at": "2026-01-01T10:05:00.000Z",
    "example_id": "id-of-one",
    "error": ERROR,
}
LETTER = {
    "id": "id-of-one",
    "status": "dead",
    "reason": "PolicyExhausted",
    "actor": "price",
    "at": "2026-01-01T10:05:00.000Z",
    "fingerprint": "abc",
    "retried_as": None,
    "error": ERROR | {"traceback": "Traceback …\n"},
    "parent_id": None,
    "route": {"prev": ["load"], "curr": "price", "next": ["ship"]},
    "attempt": 3,
    "headers": {"priority": 3},
    "payload": {"row": 7},
    "payload_problem": None,
    "case": {"id": "id-of-one", "route": {"curr": "price"}, "payload": None},
    "envelope": {},
    "hops": [{"n": 1, "actor": "price", "attempt": 3, "state": "failed"}],
}


@pytest.fixture
def asya(
    gateway: "ScriptedGateway", capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Runs a command against the scripted gateway: exit code, stdout, stderr."""
    monkeypatch.setenv("ASYA_URL", gateway.url)

    def run(*arguments: Any) -> tuple[Any, ...]:
        code = app.run(list(arguments))
        return code, *capsys.readouterr()

    return run


def answer(reply: type["Reply"], value: dict[str, Any], status: int = 200) -> "Reply":
    return reply(status, json.dumps(value).encode())


def bodies(gateway: "ScriptedGateway", what: str) -> list[dict[str, Any]]:
    return [json.loads(request.body) for request in gateway.seen(what)]


def test_letters_are_listed_by_error(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    gateway.on(
        "GET /v1/dead?actor=price&limit=500",
        answer(reply, {"groups": [GROUP], "next_cursor": "9"}),
    )
    gateway.on(
        "GET /v1/dead?actor=price&limit=500&cursor=9",
        answer(reply, {"groups": [GROUP | {"count": 1}], "next_cursor": None}),
    )
    code, out, _ = asya("dead", "list", "--actor", "price")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["COUNT", "ACTOR"],
        ["20", "price"],
        ["1", "price"],
    ]
    assert "ValueError: row 7 is bad  2026-01-01 10:00:00" in out
    _, out, _ = asya("dead", "list", "--actor", "price", "--json")
    assert [group["count"] for group in json.loads(out)["groups"]] == [20, 1]


def test_letters_are_listed_one_by_one(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    page = {"letters": [LETTER], "next_cursor": None}
    gateway.on("GET /v1/dead?group=none&limit=500", answer(reply, page))
    _, out, _ = asya("dead", "list", "--all")
    assert out.splitlines()[1].startswith("id-of-one  price  ValueError: row 7 is bad")


def test_no_letters(asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]) -> None:
    gateway.on("GET /v1/dead?limit=500", answer(reply, {"groups": [], "next_cursor": None}))
    assert asya("dead", "list") == (0, "", "no dead letters\n")


def test_a_letter_is_shown(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    gateway.on("GET /v1/dead/id-of-one", answer(reply, LETTER))
    _, out, _ = asya("dead", "show", "id-of-one")
    for text in ("load > [price] > ship", "(PolicyExhausted)", '"row": 7', "attempt 3, failed"):
        assert text in out


def test_named_letters_are_sent_again(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    gateway.on("POST /v1/dead/one/retry", answer(reply, {"id": "new"}, 202))
    code, out, err = asya(
        "dead", "retry", "one", "--set", ".payload.x=1", "--set", '.payload["a=b"]=text',
        "--route", "a, b", "--timeout", "30s",
    )  # fmt: skip
    assert (code, out, err) == (0, "one  new\n", "1 sent again\n")
    assert bodies(gateway, "POST") == [
        {
            "force": False,
            "set": [
                {"path": ".payload.x", "value": 1},
                {"path": '.payload["a=b"]', "value": "text"},
            ],
            "route": ["a", "b"],
            "timeout": "30s",
        }
    ]


def test_all_letters_are_sent_again_page_by_page(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    pair = {"id": "a", "retried_as": "b"}
    first = {"retried": [pair], "already": [pair], "refused": [], "next_cursor": "1-9"}
    last = first | {"already": [], "refused": [{"id": "c", "detail": "no"}], "next_cursor": None}
    gateway.on("POST /v1/dead/retry", answer(reply, first), reply(503, b"{}"), answer(reply, last))
    code, out, err = asya("dead", "retry", "--all", "--actor", "price", "--rate", "5")
    assert (code, out) == (1, "a  b\na  b\n")
    assert err == "c: no\n2 sent again, 1 sent before, 1 refused\n"
    asked = bodies(gateway, "POST")
    assert [each.get("cursor") for each in asked] == [None, "1-9", "1-9"]
    assert asked[0] == {"filter": {"actor": "price"}, "force": False, "rate": 5.0}


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry"],
        ["retry", "id", "--all"],
        ["retry", "id", "--actor", "a"],
        ["retry", "id", "--set", "payload.x=1"],
        ["retry", "id", "--set", ".payload.x"],
        ["purge"],
        ["purge", "id", "--older-than", "24h"],
        ["purge", "--all"],
    ],
)
def test_wrong_use(asya: Callable[..., Any], arguments: list[str]) -> None:
    code, _, err = asya("dead", *arguments)
    assert code == 2
    assert err


def test_letters_are_purged(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    gateway.on("DELETE /v1/dead/one", reply(204, b""))
    gateway.on("POST /v1/dead/purge", answer(reply, {"purged": 7}))
    assert asya("dead", "purge", "one", "--yes") == (0, "", "1 purged\n")
    code, _, err = asya("dead", "purge", "--all", "--older-than", "168h", "--yes")
    assert (code, err) == (0, "7 purged\n")
    assert bodies(gateway, "POST") == [{"all": True, "older_than": "168h"}]


def test_a_dead_letter_is_pulled(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    gateway.on("GET /v1/dead/one", answer(reply, LETTER))
    gone = LETTER | {"payload": None, "payload_problem": "it was purged"}
    gateway.on("GET /v1/dead/gone", answer(reply, gone))
    _, out, _ = asya("pull", "one")
    case = LETTER["case"]
    assert isinstance(case, dict)
    assert json.loads(out) == case | {"payload": {"row": 7}}
    code, _, err = asya("pull", "gone")
    assert code == 2
    assert "it was purged" in err


def test_what_is_not_dead_needs_a_hop(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    problem = {"type": "urn:asya:problem:ASYA-6024:not-dead", "detail": "it is succeeded"}
    gateway.on("GET /v1/dead/one", answer(reply, problem, 409))
    code, _, err = asya("pull", "one")
    assert code == 2
    assert "it is succeeded; name one of its hops with --hop N" in err


ENVELOPE = {
    "id": "one",
    "route": {"prev": ["a", "b", "c"], "curr": "x-sink", "next": []},
    "status": "succeeded",
    "headers": {"priority": 1},
    "created_at": "2026-01-01T10:00:00.000Z",
    "hops": [{"n": 0, "actor": "a", "attempt": 1}, {"n": 1, "actor": "b", "attempt": 2}],
}


def test_a_hop_is_pulled(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    gateway.on("GET /v1/envelopes/one", answer(reply, ENVELOPE))
    headers = {"Asya-Truncated": "false", "Asya-Attempt": "2"}
    gateway.on("GET /v1/envelopes/one/hops/1/payload?side=in", reply(200, b'{"x":1}', headers))
    _, out, _ = asya("pull", "one", "--hop", "1")
    case = json.loads(out)
    assert case["route"] == {"prev": ["a"], "curr": "b", "next": ["c"]}
    assert (case["status"]["attempt"], case["payload"]) == (2, {"x": 1})


def test_a_hop_of_what_failed_is_pulled(
    asya: Callable[..., Any], gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    failed = {"status": "failed", "route": {"prev": ["a"], "curr": "x-sink", "next": ["c"]}}
    gateway.on("GET /v1/envelopes/one", answer(reply, ENVELOPE | failed))
    for hop in "01":
        gateway.on(f"GET /v1/envelopes/one/hops/{hop}/payload?side=in", reply(200, b"1"))
    routes = [json.loads(asya("pull", "one", "--hop", hop)[1])["route"] for hop in "01"]
    assert routes == [
        {"prev": [], "curr": "a", "next": ["b", "c"]},
        {"prev": ["a"], "curr": "b", "next": ["c"]},
    ]


@pytest.mark.parametrize(
    ("hop", "headers", "text"),
    [
        ("7", {}, "has no hop 7; it has 0, 1"),
        ("0", {}, "`capture: all`"),
        ("1", {"Asya-Truncated": "true"}, "only the beginning"),
    ],
)
def test_a_hop_that_cannot_be_pulled(
    asya: Callable[..., Any],
    gateway: "ScriptedGateway",
    reply: type[Any],
    hop: str,
    headers: dict[str, Any],
    text: str,
) -> None:
    gateway.on("GET /v1/envelopes/one", answer(reply, ENVELOPE))
    gateway.on("GET /v1/envelopes/one/hops/1/payload?side=in", reply(200, b'{"x', headers))
    code, _, err = asya("pull", "one", "--hop", hop)
    assert code == 2
    assert text in err


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (("--actor", "prize"), "no dead letter has the actor 'prize'; did you mean price?"),
        (
            ("--reason", "Nothing"),
            "no dead letter has the reason 'Nothing'; there are PolicyExhausted",
        ),
    ],
)
def test_a_filter_that_leaves_nothing_says_what_there_is(
    gateway: "ScriptedGateway",
    reply: type[Any],
    asya: Callable[..., Any],
    filters: tuple[str, ...],
    said: str,
) -> None:
    """Given a name that no letter has, when letters are asked for, then the nearest is named."""
    nothing = answer(reply, {"groups": [], "next_cursor": None})
    gateway.on(f"GET /v1/dead?{filters[0][2:]}={filters[1]}&limit=500", nothing)
    gateway.on("GET /v1/dead?limit=500", answer(reply, {"groups": [GROUP], "next_cursor": None}))
    page: dict[str, list[str] | None] = {
        "retried": [],
        "already": [],
        "refused": [],
        "next_cursor": None,
    }
    gateway.on("POST /v1/dead/retry", answer(reply, page))
    gateway.on("POST /v1/dead/purge", answer(reply, {"purged": 0}))
    assert asya("dead", "list", *filters) == (0, "", f"asya: {said}\nno dead letters\n")
    assert asya("dead", "retry", "--all", *filters) == (0, "", f"asya: {said}\n0 sent again\n")
    assert asya("dead", "purge", "--all", "--yes", *filters) == (0, "", f"asya: {said}\n0 purged\n")


def test_of_several_letters_one_that_is_refused_does_not_stop_the_others(
    gateway: "ScriptedGateway", reply: type[Any], asya: Callable[..., Any]
) -> None:
    """Given a run over three ids that was broken off, when it is started again, it does the rest."""
    detail = {"type": "urn:asya:problem:ASYA-6024:not-dead", "code": "ASYA-6024"}
    before = detail | {"detail": "was retried", "retried_as": "new-a"}
    gateway.on("POST /v1/dead/a/retry", answer(reply, before, 409))
    gateway.on("POST /v1/dead/b/retry", answer(reply, detail | {"detail": "it is running"}, 409))
    gateway.on("POST /v1/dead/c/retry", answer(reply, {"id": "new-c"}, 202))

    code, out, err = asya("dead", "retry", "a", "b", "c")

    assert (code, out) == (1, "c  new-c\n")
    assert err == "b: it is running\n1 sent again, 1 sent before, 1 refused\n"
    assert asya("dead", "retry", "b")[0] == 2
