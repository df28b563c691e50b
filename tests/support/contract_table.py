"""The table of what every transport has proven: collected from a run of the kit, written into the docs.

A `ContractTable` listens to pytest as a plugin. It knows the tests of `TransportContract`, whose
harness says which transport and which broker it is, and works where the tests run in other
processes, too: each report carries what it needs. Only a run that proves something about every
transport writes `transport-contract.json`, and the page that `markdown`
makes from it and from the transports' classes. Nothing of a machine and of a moment is in there.

Called by `tests/conftest.py` (collecting) and `docs/generate.py` (writing the page).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from asya.addresses import TITLES, TRANSPORTS
from asya.durations import format_duration
from asya.testing.transport_contract import Harness, TransportContract
from asya.transports.base import Capabilities, Transport

PROPERTY: Final = "transport contract"
PASSED: Final = "passed"
FAILED: Final = "failed"
SKIPPED: Final = "skipped: "

Results = dict[str, dict[str, Any]]
"""By test class: `transport`, `broker`, and `tests` (outcome by name)."""

Rows = tuple[tuple[str, Callable[[Capabilities], str], str], ...]


def kit_tests() -> dict[str, list[tuple[str, str]]]:
    """The kit's tests by part, in order: name, and what each says about itself."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for part in TransportContract.__bases__:
        heading = (inspect.getdoc(part) or part.__name__).splitlines()[0]
        parts[heading] = [
            (name, " ".join((inspect.getdoc(test) or "").split()))
            for name, test in vars(part).items()
            if name.startswith("test_")
        ]
    return parts


def transport_classes() -> dict[str, type[Transport]]:
    """Every transport that there is, by name."""
    found: dict[str, type[Transport]] = {}
    for name in ("memory", *TRANSPORTS):
        path = f"asya.transports.{name}.transport"
        if importlib.util.find_spec(path) is None:
            continue
        for each in vars(importlib.import_module(path)).values():
            if inspect.isclass(each) and issubclass(each, Transport) and each.__module__ == path:
                found[name] = each
    return found


class ContractTable:
    """The plugin."""

    def __init__(
        self, config: pytest.Config, folder: Path, *, results: Path, page: Path, strict: bool
    ) -> None:
        """Prepare.

        Args:
            config: The run's.
            folder: Where the tests are.
            results: The file to write.
            page: The page to make from it.
            strict: A transport whose broker is not on the machine fails the run. Without it, as
                where another broker of that transport is there, nothing is written.
        """
        self._results_path = results
        self._page_path = page
        self._strict = strict
        self._is_worker = hasattr(config, "workerinput")
        self._narrowed = _is_narrowed(config)
        self._is_whole = _asks_for(folder, config)
        self._seen: Results = {}
        self._lines: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Write onto the report of a test of the kit what the table wants to know."""
        report = yield
        if isinstance(item, pytest.Function) and issubclass(item.cls or object, TransportContract):
            note = {"class": item.cls.__name__, "test": item.originalname}
            harness = item.funcargs.get("harness")
            if isinstance(harness, Harness):
                note |= {"transport": harness.transport_name, "broker": harness.broker_name}
            report.user_properties.append((PROPERTY, note))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a report; with several processes all of them arrive in the first one."""
        note = dict(report.user_properties).get(PROPERTY)
        if not isinstance(note, dict):
            return
        seen = self._seen.setdefault(note["class"], {"transport": "", "broker": "", "tests": {}})
        for key in ("transport", "broker"):
            seen[key] = note.get(key) or seen[key]
        tests, name = seen["tests"], note["test"]
        if report.failed:
            tests[name] = FAILED
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "an expectation"
            if tests.get(name) != FAILED:
                tests[name] = SKIPPED + str(reason).removeprefix("Skipped: ")
        elif report.when == "call":
            tests.setdefault(name, PASSED)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the table after a whole run; fail the run when something is missing in it."""
        if self._is_worker or self._narrowed or session.shouldstop or session.shouldfail:
            return
        ran = {cls: seen for cls, seen in self._seen.items() if not _is_unavailable(seen)}
        absent = [
            f"{cls}: {next(iter(seen['tests'].values()))}"
            for cls, seen in sorted(self._seen.items())
            if cls not in ran
        ]
        problems = [] if absent and not self._strict else missing(ran)
        if problems and not self._is_whole:
            return
        if problems:
            self._lines = [f"transport contract: {problem}" for problem in problems]
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        elif absent := absent or self._less_than_before(ran):
            # Another machine has it: its page says more.
            self._lines = [f"transport contract not written, {line}" for line in absent]
        elif not session.exitstatus:
            self._write()

    def _less_than_before(self, ran: Results) -> list[str]:
        try:
            before = json.loads(self._results_path.read_text("utf-8"))
        except OSError:
            return []
        return [
            f"{cls}: it is in {self._results_path.name} and not here; delete that file if it is gone"
            for cls in before
            if cls not in ran
        ]

    def _write(self) -> None:
        texts = {self._results_path: to_json(self._seen), self._page_path: markdown(self._seen)}
        for path, text in texts.items():
            if not path.is_file() or path.read_text("utf-8") != text:
                path.write_text(text, "utf-8")
                self._lines.append(f"wrote {path.parent.name}/{path.name}: commit it")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what became of the table."""
        for line in self._lines:
            terminalreporter.write_line(line)


def _is_unavailable(seen: Mapping[str, Any]) -> bool:
    """Whether its broker is not on this machine: nothing ran."""
    return not seen["transport"] and all(
        outcome.startswith(SKIPPED) for outcome in seen["tests"].values()
    )


def _is_narrowed(config: pytest.Config) -> bool:
    """Whether tests of a file that runs were left out."""
    narrowing = ("keyword", "markexpr", "deselect", "lf", "ignore", "ignore_glob", "collectonly")
    asked = any(getattr(config.option, name, None) for name in narrowing)
    return asked or any("::" in arg for arg in config.args)


def _asks_for(folder: Path, config: pytest.Config) -> bool:
    """Whether the run was asked for everything in this folder."""
    started = config.invocation_params.dir
    return any((started / arg).resolve() in {folder, *folder.parents} for arg in config.args)


def missing(results: Results) -> list[str]:
    """What a table that is to be shown lacks; a line each."""
    problems = []
    shown = {seen["transport"] for seen in results.values()}
    problems += [f"{name} was not tested" for name in transport_classes() if name not in shown]
    names = [name for tests in kit_tests().values() for name, _ in tests]
    for cls, seen in sorted(results.items()):
        tests = seen["tests"]
        problems += [f"{cls}: {name} did not run" for name in names if name not in tests]
        problems += [f"{cls}: {name} failed" for name in names if tests.get(name) == FAILED]
        if seen["transport"] and not seen["broker"]:
            problems.append(f"{cls}: its harness does not say which broker it is")
    return problems


def to_json(results: Results) -> str:
    """The results as they are kept, in an order of their own."""
    order = {name: index for index, name in enumerate(transport_classes())}
    names = [name for tests in kit_tests().values() for name, _ in tests]
    kept = {
        cls: {
            "transport": seen["transport"],
            "broker": seen["broker"],
            "tests": {name: seen["tests"][name] for name in names if name in seen["tests"]},
        }
        for cls, seen in sorted(
            results.items(), key=lambda each: (order.get(each[1]["transport"], 99), each[0])
        )
    }
    return json.dumps(kept, ensure_ascii=False, indent=1) + "\n"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _size(value: int) -> str:
    """To the KiB below: it is the largest, not about the largest."""
    return f"{value // 2**20} MiB" if value % 2**20 == 0 else f"{value // 2**10:,} KiB"


def _delay(found: Capabilities) -> str:
    if found.delay_max_s is None:
        return "any"
    if found.delay_max_s > 3600:
        return format_duration(found.delay_max_s // 60 * 60)
    return format_duration(found.delay_max_s) if found.delay_max_s else "none"


ROWS: Final[Rows] = (
    (
        "messages survive a restart of the broker",
        lambda found: _yes(found.persistent),
        "Where they do not, use it for tests only.",
    ),
    (
        "a repeated id is dropped",
        lambda found: (
            f"for {format_duration(found.dedup_window_s)}" if found.deduplicates else "no"
        ),
        (
            "Where the broker drops none, a sidecar that dies between the confirm and the ack leaves "
            "two copies; both run, and the envelope's end is stored once."
        ),
    ),
    (
        "longest delay that the broker keeps",
        _delay,
        (
            "Longer ones are kept by the mesh's own scheduler, which hands them to the broker when "
            "they are near."
        ),
    ),
    (
        "a delay may be late by",
        lambda found: format_duration(found.delay_resolution_s),
        "Never early. It adds to retries and to scheduled sends.",
    ),
    (
        "largest message",
        lambda found: _size(found.message_max_bytes),
        "Larger payloads travel by the [blob store](blob-store.md); handlers notice nothing.",
    ),
    (
        "lease of a delivery",
        lambda found: "the connection" if found.lease_s is None else format_duration(found.lease_s),
        (
            "How long after the death of a sidecar its messages go to another one. A sidecar that "
            "lives extends it, however long the handler runs."
        ),
    ),
    (
        "counts waiting messages",
        lambda found: _yes(found.counts_ready),
        "Where it does not, `depth` is what this process knows of.",
    ),
    (
        "counts messages in flight",
        lambda found: _yes(found.counts_in_flight),
        "Where it does not, the sidecars' own counts stand in.",
    ),
    (
        "counts delayed messages",
        lambda found: _yes(found.counts_delayed),
        "Where it does not, those that the broker keeps are not in `asya ps` and not in the metrics.",
    ),
    (
        "counts may be older by",
        lambda found: format_duration(found.depth_age_s),
        "The autoscaler of a laptop listens to the sidecars, too, and does not wait for it.",
    ),
    (
        "in order, with one consumer and nothing given back",
        lambda found: _yes(found.ordered),
        "No handler may rely on it: a retry comes later everywhere.",
    ),
    (
        "levels of the header `priority`",
        lambda found: str(found.priorities),
        (
            "With 1 it travels and [has no effect]"
            "(../explanation/decisions/no-priorities-in-the-broker.md)."
        ),
    ),
)
"""What a row is called, how a transport's cell is made, and what follows from it."""

PAGE: Final = """\
<!-- Made from a run of tests/contract; not by hand. -->
# Transport contract

The {count} tests of `asya.testing.transport_contract`, and what became of them for every transport. This
page is written by the run of these tests, and only by one in which nothing failed and no
transport was left out. [What is proven](../explanation/what-is-proven.md) says what such a test is worth for
each broker, and what else is tested.

## What they ran against

{brokers}
## What differs

What a broker cannot do by itself is declared, and stands here as the transports' classes say it.

{capabilities}
{sentences}
## The tests

✓ passed. A number is the reason below the tables for which a test does not apply.

{tests}{reasons}"""


def markdown(results: Results) -> str:
    """The page."""
    ordered: Results = json.loads(to_json(results))
    reasons: list[str] = []
    tests = "".join(
        f"### {heading.rstrip('.')}\n\n{_tests_table(ordered, part, reasons)}\n"
        for heading, part in kit_tests().items()
    )
    listed = [f"{number}. {_sentence(reason)}\n" for number, reason in enumerate(reasons, 1)]
    return PAGE.format(
        count=sum(len(part) for part in kit_tests().values()),
        brokers=_table(
            ["transport", "broker of the tests", "passed", "does not apply"],
            [_summary(seen) for seen in ordered.values()],
        ),
        capabilities=_capabilities(),
        sentences="".join(f"- **{_sentence(name)[:-1]}**: {text}\n" for name, _, text in ROWS),
        tests=tests,
        reasons="## Why a test does not apply\n\n" + "".join(listed) if listed else "",
    )


def _capabilities() -> str:
    classes = transport_classes()
    rows = [[name, *(cell(cls.capabilities) for cls in classes.values())] for name, cell, _ in ROWS]
    return _table(["", *(f"`{name}`" for name in classes)], rows)


def _summary(seen: Mapping[str, Any]) -> list[str]:
    outcomes = list(seen["tests"].values())
    title = TITLES.get(seen["transport"])
    named = f"`{seen['transport']}`" + (f" ({title})" if title else "")
    passed = outcomes.count(PASSED)
    return [named, seen["broker"], str(passed), str(len(outcomes) - passed)]


def _tests_table(results: Results, part: list[tuple[str, str]], reasons: list[str]) -> str:
    columns = [f"`{seen['transport']}`" for seen in results.values()]
    repeated = {name for name in columns if columns.count(name) > 1}
    headings = [
        f"{column} ({cls.removeprefix('Test')})" if column in repeated else column
        for column, cls in zip(columns, results, strict=True)
    ]
    rows = []
    for name, meaning in part:
        cells = [_cell(seen["tests"].get(name, ""), reasons) for seen in results.values()]
        title = _sentence(name.removeprefix("test_").replace("_", " "))
        rows.append([f"{title} {meaning}", *cells])
    return _table(["", *headings], rows)


def _cell(outcome: str, reasons: list[str]) -> str:
    if not outcome.startswith(SKIPPED):
        return "✓" if outcome == PASSED else "✗"
    reason = outcome.removeprefix(SKIPPED)
    if reason not in reasons:
        reasons.append(reason)
    return f"{reasons.index(reason) + 1}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)
