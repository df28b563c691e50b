"""Dead letters of a real mesh: found, run by hand, mended, sent again, over a death of the mesh."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BROKEN = """
RATES = {"EUR": 1}

def price(order):
    order["total"] = order["amount"] * RATES[order["currency"]]
    return order

def ship(order):
    return order["total"]
"""
MENDED = BROKEN.replace('"EUR": 1', '"EUR": 1, "GBP": 2')


@pytest.fixture
def shop(mesh: Any) -> Any:
    mesh.code(BROKEN, "shop.py")
    mesh.actor("price", "shop.price", scaling={"queueLength": 50})
    mesh.actor("ship", "shop.ship", scaling={"queueLength": 50})
    return mesh


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def die(shop: Any, count: int) -> list[str]:
    """Let so many envelopes die; gives their ids."""
    orders = [{"amount": number, "currency": "GBP"} for number in range(count)]
    bodies = [{"route": ["price", "ship"], "payload": order} for order in orders]
    ids = [str(shop.ask("POST", "/v1/envelopes", body)[1]["id"]) for body in bodies]
    assert shop.all_ended(count) == {"failed": count}
    return ids


def mend(shop: Any, wait_until: Callable[..., None]) -> None:
    """Change the code when no replica has the old one any more."""
    wait_until(lambda: not shop.pids("price"), 20, shop.said)
    shop.code(MENDED, "shop.py")


def test_a_bug_is_found_and_mended(shop: Any, wait_until: Callable[..., None]) -> None:
    """Given 20 deaths of one bug, then they are one group; after the fix all of them succeed."""
    shop.up("--cooldown", "100ms")
    ids = die(shop, 20)

    (group,) = json.loads(shop.command("dead", "list", "--json"))["groups"]
    assert (group["count"], group["actor"], group["error"]["type"]) == (20, "price", "KeyError")
    one = group["example_id"]
    assert "[price] > ship" in shop.command("dead", "show", one[:8])

    case = shop.folder / "case.json"
    case.write_text(shop.command("pull", one[:8]))
    failed = subprocess.run(
        [sys.executable, "-m", "asya", "run", "price", str(case)],
        cwd=shop.folder, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.endswith("KeyError: 'GBP'\n")
    mend(shop, wait_until)
    amount = json.loads(case.read_text())["payload"]["amount"]
    order = {"amount": amount, "currency": "GBP", "total": 2 * amount}
    assert json.loads(shop.command("run", "price", str(case))) == order

    told = shop.command("dead", "retry", "--all", "--rate", "200", "--watch").splitlines()
    pairs = dict(line.split() for line in told)
    assert sorted(pairs) == sorted(ids)
    results = {old: shop.envelope(new) for old, new in pairs.items()}
    assert {old: each["parent_id"] for old, each in results.items()} == {old: old for old in ids}
    assert sorted(each["result"] for each in results.values()) == list(range(0, 40, 2))
    assert json.loads(shop.command("dead", "list", "--json")) == {"groups": []}
    status, problem = shop.ask("POST", f"/v1/dead/{one[:8]}/retry", {})
    assert (status, problem["retried_as"]) == (409, pairs[one])
    status, problem = shop.ask("GET", f"/v1/envelopes/{one[:-3]}zzz")
    assert (status, problem["nearest"]) == (404, one)


def test_a_run_goes_on_over_a_death_of_the_mesh(
    shop: Any, port: int, wait_until: Callable[..., None]
) -> None:
    """Given a run over 60 letters, when the mesh is killed twice, then each is sent once."""
    count = 60
    shop.up("--cooldown", "100ms", "--port", str(port))
    ids = die(shop, count)
    mend(shop, wait_until)
    with subprocess.Popen(
        [sys.executable, "-m", "asya", "dead", "retry", "--all", "--rate", "30"],
        cwd=shop.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        for _ in range(2):
            run.stdout.readline()
            shop.kill()
            shop.up("--port", str(port))
        _, said = run.communicate(timeout=60)
    assert run.returncode == 0, said

    assert shop.all_ended(2 * count) == {"failed": count, "succeeded": count}
    parents = Counter(each["parent_id"] for each in shop.envelopes() if each["parent_id"])
    assert parents == Counter(ids)
    assert json.loads(shop.command("dead", "list", "--json")) == {"groups": []}
