"""The format of scenario files: what it refuses, and what a failure says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scenarios.inversion import Inversion
from tests.scenarios.mesh import Failed, Mesh, check
from tests.scenarios.scenario import FIELDS, FormatError, load

from asya.envelope import child_id
from asya.testing.virtual_time import run_virtual

GOOD = """
rule: forward
about: One hop.
given:
  actors:
    a: {does: [{take: 1, emit: [7]}]}
  messages: [{id: e-1}]
when:
  - {at: 9, cancel: e-1}
then:
  calls: [{at: 0, id: e-1}]
  ends: [{at: 1, id: e-1, payload: 7}]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_is_read_and_holds(tmp_path: Path) -> None:
    check(load(written(tmp_path, GOOD)), "mine.yaml")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("rule:", "rules:", "rules"),
        ("take: 1", "takes: 1", "takes"),
        ("messages:", "envelopes:", "envelopes"),
        ("cancel: e-1", "cancels: e-1", "cancels"),
        ("calls:", "called:", "called"),
        ("payload: 7", "result: 7", "result"),
        ("{does:", "{resiliency: {polices: {}}, does:", "polices"),
        ("cancel: e-1", "cancel: e-1, drain: a", "cancel, drain"),
        ("at: 9, cancel: e-1", "at: 9", "when[0]"),
    ],
)
def test_what_the_format_does_not_know_is_refused_with_file_and_key(
    tmp_path: Path, old: str, new: str, key: str
) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(FormatError) as refused:
        load(written(tmp_path, GOOD.replace(old, new)))
    assert "mine.yaml" in str(refused.value)
    assert key in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("payload: 7", "payload: 8", "then.ends[0].payload"),
        ("{at: 1, id", "{at: 2, id", "then.ends[0].at"),
        ("calls: [{at: 0, id: e-1}]", "calls: []", "then.calls"),
        ("ends: [{at: 1, id: e-1, payload: 7}]", "ends: []", "then.ends"),
        ("then:", "then:\n  queues: {a: {ready: 1}}", "then.queues"),
        ("then:", "then:\n  dead_letters: [{id: e-1}]", "then.dead_letters"),
    ],
)
def test_a_failure_says_which_file_rule_and_entry(
    tmp_path: Path, old: str, new: str, place: str
) -> None:
    scenario = load(written(tmp_path, GOOD.replace(old, new)))
    with pytest.raises(Failed) as failed:
        check(scenario, "mine.yaml")
    for part in ("mine.yaml", "forward", place):
        assert part in str(failed.value)


BUSY = """
rule: retry-delay
about: Something for every section.
given:
  actors:
    a: {resiliency: {policies: {default: {maxAttempts: 2}}}, does: [{raise: app.Boom}]}
    slow: {resiliency: {actorTimeout: 1s}, does: [{take: forever}]}
  messages: [{id: e-1}, {id: e-2, route: [slow]}]
then: {}
"""


def test_what_happened_has_the_fields_that_a_file_may_name(tmp_path: Path) -> None:
    mesh = Mesh(load(written(tmp_path, BUSY)))
    run_virtual(mesh.play())
    happened = mesh.record.everything(mesh.ledger)
    assert happened.keys() == FIELDS.keys()
    for section, entries in happened.items():
        assert entries, section
        assert {frozenset(entry) for entry in entries} == {FIELDS[section]}


def test_ids_of_children_are_named_by_parent_hop_and_index(tmp_path: Path) -> None:
    text = GOOD.replace("messages: [{id: e-1}]", 'messages: [{id: "e-1>0.1>2.3"}]')
    (message,) = load(written(tmp_path, text)).given.messages
    assert message.id == child_id(child_id("e-1", 0, 1), 2, 3)


@pytest.mark.parametrize(
    ("function", "find", "said"),
    [
        ("asya.sidecar.decide:decide", "not in there", "0 times"),
        ("asya.sidecar.decide:not_there", "", "not_there is gone"),
        ("asya.sidecar.not_there:decide", "", "decide is gone"),
    ],
)
def test_an_inversion_of_what_is_not_there_is_an_error(function: str, find: str, said: str) -> None:
    nothing = Inversion(function, find, "")
    with pytest.raises(AssertionError, match=said), nothing.applied():
        pass


def test_an_inversion_is_undone_at_its_end() -> None:
    first, second = child_id("e-1", 0, 1), child_id("e-1", 0, 2)
    with Inversion("asya.envelope:child_id", ":{index}", ":{index + 1}").applied():
        assert child_id("e-1", 0, 1) == second
    assert child_id("e-1", 0, 1) == first
