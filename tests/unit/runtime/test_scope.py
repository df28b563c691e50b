"""GET, SET and DEL: what is allowed where, copies, checks of routes, and what changed."""

from typing import Any

import pytest

from asya.runtime.scope import ROUTE_MAX, MissingItem, Scope


@pytest.fixture
def scope() -> Scope:
    return Scope(
        {
            "id": "e1",
            "route": {"prev": ["a"], "curr": "b", "next": ["c", "d"]},
            "headers": {"x": {"y": [1, 2]}, "z": 1, "x-asya-root": "e0"},
            "status": {"phase": "processing", "attempt": 2},
        }
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (".id", "e1"),
        (".route", {"prev": ["a"], "curr": "b", "next": ["c", "d"]}),
        (".route.prev[-1]", "a"),
        (".route.next[5:]", []),
        (".headers.x.y[0]", 1),
        ('.headers["x-asya-root"]', "e0"),
        (".status.attempt", 2),
    ],
)
def test_get(scope: Scope, path: str, value: Any) -> None:
    assert scope.get(path) == value


@pytest.mark.parametrize("path", [".payload", ".headersfoo", ".extra", ".[0]", ".[:]"])
def test_get_of_what_is_not_to_be_seen(scope: Scope, path: str) -> None:
    with pytest.raises(PermissionError, match=r"GET .* may read \.id") as raised:
        scope.get(path)
    assert path in str(raised.value)


@pytest.mark.parametrize(
    "path", [".parent_id", ".headers.none", ".headers.x.none", ".headers.z.a", ".route.none"]
)
def test_a_missing_key(scope: Scope, path: str) -> None:
    with pytest.raises(KeyError) as raised:
        scope.get(path)
    assert path in str(raised.value)


def test_a_missing_place_is_an_index_error_and_a_key_error(scope: Scope) -> None:
    with pytest.raises(MissingItem) as raised:
        scope.get(".route.next[2]")
    assert isinstance(raised.value, IndexError)
    assert isinstance(raised.value, KeyError)


def test_values_are_copied_out_and_in(scope: Scope) -> None:
    scope.get(".headers.x")["y"].append("changed")
    assert scope.get(".headers.x.y") == [1, 2]

    mine = {"deep": [1]}
    scope.set(".headers.mine", mine)
    mine["deep"].append(2)

    assert scope.get(".headers.mine") == {"deep": [1]}
    assert scope.changes() == {"set": {"mine": {"deep": [1]}}}


@pytest.mark.parametrize(
    ("path", "value", "route"),
    [
        (".route.next", ["e"], ["e"]),
        (".route.next", ("e", "x-pause"), ["e", "x-pause"]),
        (".route.next[0]", "e", ["e", "d"]),
        (".route.next[-1]", "e", ["c", "e"]),
        (".route.next[:0]", ["e", "f"], ["e", "f", "c", "d"]),
        (".route.next[99:]", ["e"], ["c", "d", "e"]),
        (".route.next[:]", [], []),
    ],
)
def test_set_of_the_route(
    scope: Scope, path: str, value: list[Any] | str | tuple[str, ...], route: list[Any]
) -> None:
    scope.set(path, value)

    assert scope.get(".route.next") == route
    assert scope.changes() == {"next": route}


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (".route.next", "e", TypeError),
        (".route.next", None, TypeError),
        (".route.next[0]", ["e"], TypeError),
        (".route.next[0]", 5, TypeError),
        (".route.next[:0]", "abc", TypeError),
        (".route.next", [1], TypeError),
        (".route.next[2]", "e", IndexError),
        (".route.next", ["Upper"], ValueError),
        (".route.next", [""], ValueError),
        (".route.next", ["a" * 64], ValueError),
        (".route.next", ["a-"], ValueError),
        (".route.next", ["a\n"], ValueError),
        (".route.next", ["x-sink"], ValueError),
        (".route.next[0]", "x-sump", ValueError),
        (".route.next", ["a"] * (ROUTE_MAX + 1), ValueError),
        (".headers.a", float("nan"), ValueError),
        (".headers.a", object(), TypeError),
        (".headers.none.a", 1, KeyError),
        (".headers.z.a", 1, KeyError),
        (".headers.x.y[7]", 1, IndexError),
        (".headers.x.y[:1]", 1, TypeError),
    ],
)
def test_a_set_that_fails_changes_nothing(
    scope: Scope, path: str, value: Any, error: type[Any]
) -> None:
    with pytest.raises(error):
        scope.set(path, value)

    assert scope.changes() == {}
    assert scope.get(".route.next") == ["c", "d"]


@pytest.mark.parametrize("verb", ["set", "delete"])
@pytest.mark.parametrize(
    "path",
    [
        ".id",
        ".parent_id",
        ".route",
        ".route.prev",
        ".route.curr",
        ".route.next[0].x",
        ".route.nextfoo",
        ".headers",
        ".headers[0]",
        ".headers.x-asya-root",
        '.headers["X-Asya-New"]',
        ".status",
        ".payload",
    ],
)
def test_what_may_not_be_changed(scope: Scope, verb: str, path: str) -> None:
    with pytest.raises(PermissionError, match=r"may (write|remove) \.route\.next"):
        scope.set(path, "a") if verb == "set" else scope.delete(path)


def test_status_can_be_set_but_not_removed(scope: Scope) -> None:
    scope.set(".status.progress", {"done": 1})
    scope.set(".status.progress.done", 2)

    assert scope.changes() == {"status": {"progress": {"done": 2}}}
    with pytest.raises(PermissionError):
        scope.delete(".status.progress")


def test_deleted_headers(scope: Scope) -> None:
    scope.delete(".headers.z")
    assert scope.changes() == {"del": ["z"]}

    scope.set(".headers.z", 3)
    assert scope.changes() == {"set": {"z": 3}}

    scope.delete(".headers.z")
    scope.set(".headers.new", 1)
    scope.delete(".headers.new")
    scope.delete(".headers.x.y[0]")

    assert scope.changes() == {"del": ["z"], "set": {"x": {"y": [2]}}}
    with pytest.raises(KeyError):
        scope.delete(".headers.z")


@pytest.mark.parametrize(
    ("path", "route"),
    [(".route.next", []), (".route.next[0]", ["d"]), (".route.next[1:]", ["c"])],
)
def test_deleted_hops(scope: Scope, path: str, route: list[Any]) -> None:
    scope.delete(path)

    assert scope.changes() == {"next": route}
