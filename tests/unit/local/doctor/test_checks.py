"""How checks are run: in order, beside one another, each within its time."""

import threading
from collections.abc import Iterator
from typing import Any

from asya.codes import Code
from asya.errors import UsageError
from asya.local.doctor.checks import Check, Finding, Seen, run


def fine(setup: Any) -> Iterator[tuple[Any, str]]:
    yield "ok", "fine"


def test_findings_come_in_the_order_of_the_table(make: Any) -> Any:
    later = threading.Event()

    def slow(setup: Any) -> Any:
        later.wait(30)
        yield "ok", "slow"

    def quick(setup: Any) -> Any:
        later.set()
        yield "ok", "quick"

    found = run([Check("a", slow), Check("b", quick)], make())
    assert [(each.check, each.text) for each in found] == [("a", "slow"), ("b", "quick")]


def test_more_checks_than_run_at_a_time(make: Any) -> None:
    found = run([Check(str(number), fine) for number in range(20)], make())
    assert [each.check for each in found] == [str(number) for number in range(20)]


def test_no_check_at_all(make: Any) -> None:
    assert list(run([], make())) == []


def test_one_that_hangs_is_a_finding_and_holds_up_no_other(make: Any) -> Any:
    for_ever = threading.Event()

    def hang(setup: Any) -> Any:
        for_ever.wait()
        yield "ok", "never"

    found = list(run([Check("a", hang, 0.05), Check("b", fine)], make()))
    for_ever.set()
    assert found == [
        Finding("a", "fail", "gave no answer within 0.05 s"),
        Finding("b", "ok", "fine"),
    ]


def test_one_that_fails_is_a_finding(make: Any) -> None:
    def broken(setup: Any) -> Seen:
        yield from ()
        raise KeyError("x")

    (found,) = run([Check("a", broken)], make())
    assert (found.state, found.code) == ("fail", Code.INTERNAL)
    assert "KeyError: 'x'" in found.text


def test_an_error_of_ours_is_its_text_and_code(make: Any) -> None:
    def refuse(setup: Any) -> Seen:
        yield from ()
        raise UsageError("no", code=Code.BROKER_MISSING)

    assert list(run([Check("a", refuse)], make())) == [
        Finding("a", "fail", "no", Code.BROKER_MISSING)
    ]


def test_a_library_that_is_missing_skips_the_check(make: Any) -> Any:
    def need(setup: Any) -> Any:
        import no_such_library  # type: ignore[import-not-found]

        yield "ok", str(no_such_library)

    (found,) = run([Check("a", need)], make())
    assert (found.state, found.text) == ("skip", "needs no_such_library, which is not installed")
