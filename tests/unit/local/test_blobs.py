"""Which blob store a mesh takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asya.blobs.folder import FolderBlobs
from asya.errors import UsageError
from asya.local.blobs import blob_store, check_retention, longest_wait_s, open_claims
from asya.manifest import actor_from_function
from asya.resiliency import Policy, Resiliency
from asya.settings import Settings

DAY_S = 86_400.0


def test_without_a_setting_it_is_a_folder_in_the_data_folder(tmp_path: Path) -> None:
    store = blob_store(Settings(), tmp_path)
    assert isinstance(store, FolderBlobs)
    assert store.folder == tmp_path / "blobs"


def test_a_path_and_a_bucket(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    folder = blob_store(Settings(blob_store=Path("/elsewhere")), tmp_path)
    assert isinstance(folder, FolderBlobs)
    assert folder.folder == Path("/elsewhere")
    assert blob_store(Settings(blob_store="s3://b/p"), tmp_path).name == "s3://b/p"


async def test_the_threshold_stays_under_what_the_broker_takes(tmp_path: Path) -> None:
    small = await open_claims(Settings(), tmp_path, [], 128 * 1024)
    assert small.threshold_bytes == 64 * 1024
    large = await open_claims(Settings(), tmp_path, [], 8 * 1024 * 1024)
    assert large.threshold_bytes == 256 * 1024


@pytest.mark.parametrize(
    ("policy", "wait_s"),
    [
        (Policy(max_attempts=1), 0.0),
        (Policy(max_attempts=3, backoff="constant", initial_delay_s=7.0), 7.0),
        (Policy(max_attempts=4, backoff="linear", initial_delay_s=10.0), 30.0),
        (Policy(max_attempts=9, initial_delay_s=1.0, max_interval_s=60.0), 60.0),
        (Policy(max_attempts=3, initial_delay_s=5.0, jitter=True), 10.0),
    ],
)
def test_the_longest_wait_is_the_last_delay_and_the_time_to_run(policy: Any, wait_s: Any) -> None:
    resiliency = Resiliency(actor_timeout_s=100.0, policies={"default": policy})
    assert longest_wait_s(resiliency) == 100.0 + wait_s


def test_a_retention_that_is_too_short_is_refused_with_the_actor(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text("def echo(payload):\n    return payload\n")
    actor = actor_from_function(f"{tmp_path}/handlers.py:echo")
    check_retention([actor], DAY_S)
    with pytest.raises(UsageError, match=r"actor echo may wait 5m .* kept for 1m"):
        check_retention([actor], 60.0)
