"""Idempotency keys, envelopes for later, and schedules, over deaths of the whole mesh."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.conftest import Mesh

CODE = """
import asyncio

def note(payload):
    with open("notes", "a") as file:
        print(payload["name"], file=file, flush=True)
    return payload

async def sleep(payload):
    await asyncio.sleep(payload["seconds"])
    return payload
"""


def post(mesh: Any, path: str, body: Any, **headers: str) -> tuple[int, Any, bool]:
    """Status, body, and whether it was said to be replayed."""
    url = urlsplit(mesh.url)
    connection = http.client.HTTPConnection(str(url.hostname), url.port or 0, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(
            "POST", path, json.dumps(body), {"content-type": "application/json", **named}
        )
        answer = connection.getresponse()
        replayed = answer.headers.get("Idempotent-Replayed") == "true"
        return answer.status, json.loads(answer.read()), replayed
    finally:
        connection.close()


def kill_all(mesh: Any) -> None:
    """kill -9 of supervisor and broker."""
    broker = mesh.broker_pid
    mesh.kill()
    os.kill(broker, signal.SIGKILL)


def notes(mesh: Any) -> list[str]:
    path = mesh.folder / "notes"
    return path.read_text().split() if path.exists() else []


def flow(mesh: Any, name: str, spec: dict[str, Any]) -> None:
    document = {"apiVersion": "asya.sh/v1alpha1", "kind": "Flow", "metadata": {"name": name}}
    (mesh.folder / f"flow-{name}.yaml").write_text(json.dumps(document | {"spec": spec}))


def schedule(mesh: Any, name: str, spec: dict[str, Any]) -> None:
    document = {"apiVersion": "asya.sh/v1alpha1", "kind": "Schedule", "metadata": {"name": name}}
    (mesh.folder / f"schedule-{name}.yaml").write_text(json.dumps(document | {"spec": spec}))


def test_a_key_admits_one_envelope_over_threads_and_deaths(
    mesh: Mesh, wait_until: Callable[..., None]
) -> None:
    mesh.code(CODE)
    mesh.actor("sleep", "handlers.sleep")
    flow(mesh, "strict", {"route": ["sleep"], "idempotency": {"policy": "reject"}})
    mesh.up()

    # given many requests at once with one key, then one of them is admitted
    body = {"route": ["sleep"], "payload": {"seconds": 0}}
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(
                lambda _: post(mesh, "/v1/envelopes?wait=20s", body, Idempotency_Key='"k"'),
                range(48),
            )
        )
    assert {status for status, _, _ in answers} == {200}
    (id_,) = {answer["id"] for _, answer, _ in answers}
    assert {answer["status"] for _, answer, _ in answers} == {"succeeded"}
    assert [replayed for _, _, replayed in answers].count(False) == 1
    assert sum(mesh.states().values()) == 1

    # and in another flow the key is free, where the flow's own policy holds
    slow = {"seconds": 30}
    status, first, _ = post(mesh, "/v1/flows/strict", slow, Idempotency_Key="k")
    assert (status, first["id"] == id_) == (202, False)
    status, problem, _ = post(mesh, "/v1/flows/strict", slow, Idempotency_Key="k")
    assert (status, problem["id"]) == (409, first["id"])

    # when everything is killed, then keys are held as before
    kill_all(mesh)
    mesh.up()
    status, again, replayed = post(mesh, "/v1/envelopes", body, Idempotency_Key="k")
    assert (status, again["id"], replayed) == (200, id_, True)
    other = body | {"payload": {"seconds": 1}}
    status, problem, _ = post(mesh, "/v1/envelopes", other, Idempotency_Key="k")
    assert (status, problem["id"]) == (422, id_)

    # and a request may say to take the other's place: a handler that works on it is stopped
    wait_until(lambda: mesh.envelope(first["id"])["status"] == "running", 20)
    status, second, _ = post(
        mesh,
        "/v1/flows/strict?wait=20s",
        {"seconds": 0},
        Idempotency_Key="k",
        Idempotency_Policy="replace",
    )
    assert (status, second["status"]) == (200, "succeeded")
    assert mesh.envelope(first["id"])["status"] == "canceled"


def test_envelopes_for_later_come_in_their_time_over_deaths(
    mesh: Mesh, wait_until: Callable[..., None]
) -> None:
    mesh.code(CODE)
    mesh.actor("note", "handlers.note")
    flow(mesh, "notes", {"route": ["note"], "timeout": "20s"})
    mesh.up()
    # given one with less time than it waits, one by a flow, and one that is canceled
    later = mesh.send("note", {"name": "later"}, delay="8s", timeout="7s")
    _, by_flow, _ = post(mesh, "/v1/flows/notes?not_before=3s", {"name": "flow"})
    never = mesh.send("note", {"name": "never"}, delay="3s")
    mesh.ask("DELETE", f"/v1/envelopes/{never}")
    seen = mesh.envelope(later)
    assert (seen["status"], seen["hops"]) == ("pending", [])

    kill_all(mesh)
    mesh.up()

    for id_ in (later, by_flow["id"]):
        ended = mesh.ended(id_)
        assert ended["status"] == "succeeded", ended
        began = datetime.fromisoformat(ended["hops"][0]["started_at"])
        assert began >= datetime.fromisoformat(ended["not_before"])
    # the one that was canceled had its time too: a later one is through
    assert mesh.call("note", {"name": "last"})["status"] == "succeeded"
    assert sorted(notes(mesh)) == ["flow", "last", "later"]
    assert mesh.envelope(never)["status"] == "canceled"


def test_a_schedule_fires_each_due_time_once_over_deaths(
    mesh: Mesh, wait_until: Callable[..., None]
) -> None:
    mesh.code(CODE)
    mesh.actor("note", "handlers.note")
    spec = {"route": ["note"], "every": "1s", "payload": {"name": "tick"}, "missedRuns": "all"}
    schedule(mesh, "tick", spec)
    mesh.up()
    wait_until(lambda: len(notes(mesh)) >= 2, 20, mesh.said)
    kill_all(mesh)
    mesh.up()
    told = len(notes(mesh))
    wait_until(lambda: len(notes(mesh)) >= told + 2, 20, mesh.said)
    status, state = mesh.ask("POST", "/v1/schedules/tick/suspend")
    assert (status, state["suspended"], state["next_at"]) == (200, True, None)

    wait_until(lambda: set(mesh.states()) == {"succeeded"}, 20)
    runs = [mesh.envelope(each["id"]) for each in mesh.envelopes()]
    due = sorted(run["headers"]["schedule-due-at"] for run in runs)
    first, last = (datetime.fromisoformat(each) for each in (due[0], due[-1]))
    assert len(set(due)) == len(due) == (last - first).total_seconds() + 1
    assert state["last_at"] == due[-1]

    # suspended is suspended over a restart, and a run by hand still goes
    mesh.stop()
    mesh.up()
    status, accepted = mesh.ask("POST", "/v1/schedules/tick/run?id=by-hand")
    assert (status, accepted["id"]) == (202, "by-hand")
    assert mesh.ended("by-hand")["status"] == "succeeded"
    assert len(list(mesh.envelopes())) == len(due) + 1
    status, problem = mesh.ask("POST", "/v1/schedules/tik/run")
    assert (status, problem["nearest"]) == (404, "tick")


def test_a_schedule_of_a_flow_that_is_not_there_is_refused_before_anything_runs(mesh: Mesh) -> None:
    mesh.code(CODE)
    mesh.actor("note", "handlers.note")
    flow(mesh, "notes", {"route": ["note"]})
    schedule(mesh, "tick", {"flow": "note", "every": "1s"})
    process = mesh.popen()
    assert process.wait(20) == 2
    assert "sends into the flow 'note', which is not in this mesh; did you mean 'notes'?" in (
        mesh.said()
    )
