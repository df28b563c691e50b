from __future__ import annotations

from pathlib import Path

import pytest

from asya.local.doctor.set_up import SetUp

ACTOR = (
    "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: a}\nspec: {handler: h.f}\n"
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_project_is_read_as_asya_up_would(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(ACTOR)
    setup = SetUp.read(["."], tmp_path, {"ASYA_PORT": "9000"}, {})
    assert [each.name for each in setup.actors] == ["a"]
    assert setup.settings.port == 9000
    assert setup.data == tmp_path / ".asya"
    assert (setup.settings_problems, setup.manifest_problems, setup.named) == ([], [], True)


def test_what_is_wrong_is_kept_and_the_defaults_hold(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Nothing\n")
    setup = SetUp.read([], tmp_path, {"ASYA_PORT": "many"}, {})
    assert len(setup.settings_problems) == 1
    assert len(setup.manifest_problems) >= 1
    assert setup.actors == ()
    assert setup.data == tmp_path / ".asya"
    assert not setup.named
