from __future__ import annotations

import os
from pathlib import Path

import pytest

from asya.codes import Code
from asya.errors import UsageError
from asya.local.sockets import SOCKET_PATH_MAX, make_private, socket_folder


def test_sockets_are_in_the_data_folder_unless_its_path_is_too_long() -> None:
    assert socket_folder(Path("/data")) == Path("/data/run")
    long = Path("/") / ("x" * SOCKET_PATH_MAX)
    elsewhere = socket_folder(long)
    assert len(os.fsencode(elsewhere / "99999.sock")) <= SOCKET_PATH_MAX
    assert elsewhere != socket_folder(long / "other")


def test_only_this_user_can_enter(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_that_somebody_left_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError) as caught:
        make_private(tmp_path / "run")
    assert caught.value.code == Code.DATA_UNUSABLE


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/run") as caught:
        make_private(tmp_path / "file" / "run")
    assert caught.value.code == Code.DATA_UNUSABLE
