"""What `asya up` says of the mesh that it has started."""

from asya.cli.up import NAMES_MAX, entries


def test_schedules_stand_beside_the_flows_where_there_are_some() -> None:
    assert entries(["search"], []) == {"flows": "search"}
    assert entries(["search"], ["tick", "nightly"])["schedules"] == "tick, nightly"


def test_without_a_flow_it_says_how_to_send() -> None:
    assert "asya call ACTOR JSON" in entries([], [])["flows"]


def test_a_long_list_is_cut() -> None:
    shown = entries([f"f{n}" for n in range(NAMES_MAX + 2)], [])["flows"]
    assert shown.endswith(f"f{NAMES_MAX - 1} and 2 more")
