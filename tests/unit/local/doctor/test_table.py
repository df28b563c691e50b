from __future__ import annotations

from pathlib import Path

from asya.local.doctor import SetUp, examine
from asya.local.doctor.table import CHECKS


def test_every_check_has_a_name_of_its_own_and_a_time_limit() -> None:
    names = [each.name for each in CHECKS]
    assert len(set(names)) == len(names)
    assert all(0 < each.limit_s < 60 for each in CHECKS)


def test_findings_come_in_the_order_of_the_table(tmp_path: Path) -> None:
    setup = SetUp.read([], tmp_path, {}, {})
    seen = list(dict.fromkeys(each.check for each in examine(setup, handlers=False)))
    assert seen == [each.name for each in CHECKS if each.name in seen]
    assert {"python", "data", "manifests"} <= set(seen)
