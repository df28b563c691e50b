"""A mesh on a broker that runs elsewhere, and what can befall it: the same faults on each broker.

`asya up --transport URL` with real processes, on a real server of its own for the tests of a
class, through a proxy that can be cut. After each fault every accepted envelope has ended once,
nothing is left in a queue, and the mesh's log has said in one line what happened and in one that
it is over.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import pytest
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitServer, find_programs

from asya.addresses import parse_address
from asya.envelope import encode, new_envelope, raw_json
from asya.local.broker import find_binary
from asya.transports.base import Transport
from asya.transports.nats.transport import NatsTransport
from asya.transports.opening import open_transport

T = TypeVar("T")

PATIENCE_S = 90.0
OUTAGE_S = 5.0
BACKLOG = int(os.environ.get("BACKLOG", "2000"))
"""How many messages wait; by hand, `BACKLOG=100000`."""
BACKLOG_S = max(PATIENCE_S, BACKLOG / 50)
MEMORY_MORE = 150 * 2**20
SENDERS = 2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 + BACKLOG_S)]

HANDLERS = """
import os, time

JOURNAL = os.path.join(os.path.dirname(__file__), "journal")

def first(payload):
    return payload

def second(payload):
    name = yield "GET", ".id"
    with open(JOURNAL, "a") as journal:
        journal.write(name + "\\n")
    yield payload

def slow(payload):
    name = yield "GET", ".id"
    time.sleep(payload["sleep"])
    with open(JOURNAL, "a") as journal:
        journal.write(name + "\\n")
    yield payload
"""


class Wire:
    """The network between mesh and server, in an event loop of its own: these tests have none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._proxy: Proxy | None = None

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        assert self._proxy is not None
        return self._proxy.port

    def start(self, target: int) -> None:
        """Forward to this port from now on."""
        self._proxy = Proxy(target)
        self._run(self._proxy.start())

    def does(self, what: Callable[[Proxy], None]) -> None:
        """Let it misbehave, or behave again."""

        async def do() -> None:
            assert self._proxy is not None
            what(self._proxy)

        self._run(do())

    def close(self) -> None:
        """End it."""
        if self._proxy is not None:
            self._run(self._proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)


class Broker(ABC):
    """A server for the tests of a class, which can be harmed.

    Attributes:
        title: What the log calls it.
        proxy: Stands between every mesh and the server.
    """

    title: str
    namespace = "faults"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proxy = Wire()

    @abstractmethod
    def url(self, *, port: int) -> str:
        """The address, at the server's own port or at the proxy's."""

    @property
    @abstractmethod
    def port(self) -> int:
        """The server's own."""

    @abstractmethod
    def start(self) -> None:
        """Returns when it takes connections."""

    @abstractmethod
    def kill(self) -> None:
        """Kill -9."""

    @abstractmethod
    def revoke(self) -> None:
        """Take the mesh's credentials away, and throw it out."""

    @abstractmethod
    def restore(self) -> None:
        """Give them back."""

    @abstractmethod
    def close(self) -> None:
        """End it."""

    def open(self) -> None:
        """Start it, with the proxy in front."""
        self.start()
        self.proxy.start(self.port)

    def ask(self, work: Callable[[Transport], Coroutine[Any, Any, T]]) -> T:
        """Do something to the server past the mesh and the proxy."""

        async def run() -> T:
            address = parse_address(self.url(port=self.port))
            transport = open_transport(address, self.namespace, lease_s=30.0)
            await transport.connect()
            try:
                return await work(transport)
            finally:
                await transport.close()

        return asyncio.run(run())

    def queue(self, actor: str) -> str:
        return f"asya-{self.namespace}-{actor}"


class NatsBroker(Broker):
    """A `nats-server` with one user, whose password can be changed while it runs."""

    title = "NATS"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._port

    def url(self, *, port: int) -> str:
        return f"nats://asya:{self._password}@127.0.0.1:{port}"

    def start(self) -> None:
        self._configure(self._password)
        with (self.folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_binary(), "-c", str(self.folder / "nats.conf")], stdout=log, stderr=log
            )
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self._port), 1) as connection:
                    if connection.recv(4) == b"INFO":
                        return
            except OSError:
                assert time.monotonic() < give_up, (self.folder / "nats.log").read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def revoke(self) -> None:
        self._reload("another")

    def restore(self) -> None:
        self._reload(self._password)

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def _reload(self, password: str) -> None:
        assert self._process is not None
        self._configure(password)
        self._process.send_signal(signal.SIGHUP)

    def _configure(self, password: str) -> None:
        (self.folder / "nats.conf").write_text(
            f"""listen: "127.0.0.1:{self._port}"
max_payload: 8388608
jetstream {{ store_dir: "{self.folder}/store", max_file: 8GB }}
authorization {{ users: [{{ user: asya, password: "{password}" }}] }}
"""
        )


class RabbitBroker(Broker):
    """A RabbitMQ, and a user for the mesh whose password can be changed."""

    title = "RabbitMQ"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = RabbitServer(folder)
        self._password = secrets.token_hex(8)

    @property
    def port(self) -> int:
        return self.server.port

    def url(self, *, port: int) -> str:
        return self.server.url(
            user="mesh", password=self._password, port=port, query="heartbeat=1s"
        )

    def open(self) -> None:
        super().open()
        self.server.ctl("add_user", "mesh", self._password)
        self.server.ctl("set_permissions", "mesh", ".*", ".*", ".*")

    def start(self) -> None:
        self.server.start()

    def kill(self) -> None:
        self.server.kill()

    def revoke(self) -> None:
        self.server.ctl("change_password", "mesh", "another")
        self.server.ctl("close_all_connections", "revoked by a test")

    def restore(self) -> None:
        self.server.ctl("change_password", "mesh", self._password)

    def close(self) -> None:
        self.server.close()


class Load:
    """Senders that send one envelope after the other, over a fault, until it is over."""

    def __init__(self, project: Any, wait_until: Any) -> None:
        self._project = project
        self._wait_until = wait_until
        self._stop = threading.Event()
        self._mark = secrets.token_hex(4)  # a broker may know the ids of the test before
        self.ids: list[str] = []

    def __enter__(self) -> Self:
        self._project.up()
        self._pool = ThreadPoolExecutor(SENDERS)
        self._sending = [self._pool.submit(self._send, number) for number in range(SENDERS)]
        self._wait_for(30)
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            if failure[0] is None:
                self._wait_for(len(self.ids) + 30)
        finally:
            self._stop.set()
            self._pool.shutdown()

    def all_ended(self) -> None:
        """Everything that was accepted ended once, was worked on, and is in no queue any more."""
        for each in self._sending:
            each.result()
        states = self._project.all_ended(len(self.ids), wait_s=PATIENCE_S)
        bad = [each["id"] for each in self._project.envelopes() if each["status"] != "succeeded"]
        about = [self._project.envelope(each) for each in bad[:3]]
        assert states == {"succeeded": len(self.ids)}, json.dumps(about, indent=1)
        assert set(worked(self._project)) == set(self.ids)
        empty(self._project, self._wait_until)

    def _send(self, sender: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            id_ = f"{self._mark}-{sender}-{number}"
            self._project.send_surely(["first", "second"], 1, id_, within_s=PATIENCE_S)
            self.ids.append(id_)
            time.sleep(0.01)

    def _wait_for(self, count: int) -> None:
        def enough() -> bool:
            assert not any(each.done() for each in self._sending), self._sending
            return len(self.ids) >= count and self._project.states()["succeeded"] >= count

        self._wait_until(enough, PATIENCE_S, self._project.said)


def under_load(project: Any, wait_until: Any) -> Load:
    return Load(project, wait_until)


def lost(project: Any, broker: Broker) -> int:
    """How often the mesh said that the broker is gone."""
    return told(project, broker)[0]


def told(project: Any, broker: Broker) -> tuple[int, int]:
    """How often it said that the broker is gone, and that it is back."""
    log = project.log("x-mesh")
    gone = re.findall(rf"lost the connection to {broker.title} at \S+ \(", log)
    back = re.findall(rf"connected to {broker.title} at \S+ again after", log)
    return len(gone), len(back)


def worked(project: Any) -> Counter[str]:
    """How often each envelope was worked on to the end of its last handler."""
    journal = project.folder / "journal"
    return Counter(journal.read_text().split() if journal.exists() else ())


def empty(project: Any, wait_until: Any) -> None:
    """Wait until no queue holds a message."""

    def waiting() -> int:
        actors = project.get("/v1/actors")[1]["actors"]
        return sum(count or 0 for actor in actors for count in actor["queue"].values())

    wait_until(lambda: waiting() == 0, PATIENCE_S, lambda: str(project.get("/v1/actors")[1]))


async def flood(transport: Transport, queue: str, count: int) -> None:
    """Put envelopes into a queue, past every mesh."""
    route = ["first", "second"]
    for begin in range(0, count, 500):
        ids = [f"b-{number}" for number in range(begin, min(begin + 500, count))]
        envelopes = [
            new_envelope(route, raw_json(1), now=datetime.now(UTC), id=each) for each in ids
        ]
        await asyncio.gather(
            *(
                transport.publish(queue, encode(envelope), dedup_id=envelope.id)
                for envelope in envelopes
            )
        )


async def delete_stream(transport: Transport) -> None:
    """Remove everything that a namespace has in NATS, as nobody should."""
    assert isinstance(transport, NatsTransport)
    await transport._api(f"STREAM.DELETE.asya-{Broker.namespace}")


class MeshFaults:
    """What holds on each broker; a subclass gives the broker."""

    @pytest.fixture
    def project(self, mesh: Any, broker: Broker) -> Any:
        mesh.code(HANDLERS)
        for name in ("first", "second"):
            mesh.actor(name, f"handlers.{name}", scaling={"maxReplicaCount": 1})
        mesh.environ = {
            "ASYA_TRANSPORT_URL": broker.url(port=broker.proxy.port),
            "ASYA_NAMESPACE": broker.namespace,
            "ASYA_LEASE": "3s",
        }
        return mesh

    def test_the_broker_is_killed_under_load_and_back_after_a_while(
        self, project: Any, broker: Broker, wait_until: Any
    ) -> None:
        with under_load(project, wait_until) as load:
            broker.kill()
            wait_until(lambda: lost(project, broker) == 1, PATIENCE_S, project.said)
            time.sleep(OUTAGE_S)  # that is the fault: gone for as long
            broker.start()
        load.all_ended()
        assert told(project, broker) == (1, 1)

    def test_the_network_goes_silent_and_comes_back(
        self, project: Any, broker: Broker, wait_until: Any
    ) -> None:
        with under_load(project, wait_until) as load:
            broker.proxy.does(Proxy.stall)
            wait_until(lambda: lost(project, broker) == 1, PATIENCE_S, project.said)
            broker.proxy.does(Proxy.resume)
        load.all_ended()
        assert told(project, broker) == (1, 1)

    def test_the_network_refuses_and_comes_back(
        self, project: Any, broker: Broker, wait_until: Any
    ) -> None:
        with under_load(project, wait_until) as load:
            broker.proxy.does(Proxy.cut)
            wait_until(lambda: lost(project, broker) == 1, PATIENCE_S, project.said)
            broker.proxy.does(Proxy.mend)
        load.all_ended()
        assert told(project, broker) == (1, 1)

    def test_a_connection_of_which_only_our_half_is_left(
        self, project: Any, broker: Broker, wait_until: Any
    ) -> None:
        with under_load(project, wait_until) as load:
            broker.proxy.does(Proxy.half_open)
            wait_until(lambda: lost(project, broker) == 1, PATIENCE_S, project.said)
        load.all_ended()
        assert told(project, broker) == (1, 1)

    def test_the_credentials_are_revoked_and_restored(
        self, project: Any, broker: Broker, wait_until: Any
    ) -> None:
        with under_load(project, wait_until) as load:
            broker.revoke()
            wait_until(lambda: lost(project, broker) == 1, PATIENCE_S, project.said)
            broker.restore()
        load.all_ended()
        assert told(project, broker) == (1, 1)
        secret = re.search(r":([^:@]+)@", broker.url(port=1))
        assert secret is not None
        assert secret[1] not in project.said() + project.log("x-mesh")

    def test_a_queue_is_deleted_under_its_actor(
        self, project: Any, broker: Broker, wait_until: Any
    ) -> None:
        # given actors at work, and no message in the queue that goes: nobody gives those back
        project.up()
        assert project.call(["first", "second"], 1)["status"] == "succeeded"
        empty(project, wait_until)
        # when it is deleted
        broker.ask(lambda transport: transport.delete(broker.queue("second")))
        # then what is sent to it from then on ends, and the log says it once
        ids = [f"e-{number}" for number in range(40)]
        project.sending(["first", "second"], ids, 1).result(PATIENCE_S)
        assert project.all_ended(41, wait_s=PATIENCE_S) == {"succeeded": 41}
        assert set(ids) <= set(worked(project))
        log = project.log("x-mesh")
        assert (
            len(re.findall(r"queue asya-faults-second was deleted .*(?:recreated|made) it", log))
            == 1
        ), log
        empty(project, wait_until)

    def test_a_backlog_that_waited_before_the_mesh_was_there(
        self, project: Any, broker: Broker, wait_until: Any
    ) -> None:
        # given thousands of messages that were put into the queue while nobody took them
        project.up()
        assert project.stop() == 0
        broker.ask(lambda transport: flood(transport, broker.queue("first"), BACKLOG))
        # when a mesh starts
        project.up()
        own = psutil.Process(project.process.pid)
        before = own.memory_info().rss
        # then all of them end once, and its memory does not grow with what waits
        wait_until(lambda: worked(project).total() >= BACKLOG, BACKLOG_S, project.said)
        states = project.all_ended(BACKLOG, wait_s=PATIENCE_S)
        assert states == {"succeeded": BACKLOG}
        assert worked(project) == {f"b-{number}": 1 for number in range(BACKLOG)}
        more = own.memory_info().rss - before
        assert more < MEMORY_MORE, f"{more >> 20} MiB more"
        empty(project, wait_until)

    def test_a_slow_handler_keeps_its_message_and_holds_up_nobody_else(
        self, project: Any, broker: Broker, wait_until: Any
    ) -> None:
        # given a handler that takes several times the lease, and more waiting for it
        project.actor("slow", "handlers.slow", scaling={"maxReplicaCount": 1})
        project.up()
        slow = [project.send("slow", {"sleep": seconds}) for seconds in (7, 0, 0)]
        wait_until(lambda: project.pids("slow", "busy"), PATIENCE_S, project.said)
        # when others have work
        quick = [project.send(["first", "second"], 1) for _ in range(50)]
        for each in quick:
            assert project.ended(each, PATIENCE_S)["status"] == "succeeded"
        # then they did not wait for it, and it ran once
        assert project.envelope(slow[0])["status"] == "running"
        for each in slow:
            assert project.ended(each, PATIENCE_S)["status"] == "succeeded"
        assert worked(project) == Counter(slow + quick)

    def test_the_mesh_is_killed_under_load_and_started_again(
        self, project: Any, broker: Broker, wait_until: Any
    ) -> None:
        with under_load(project, wait_until) as load:
            project.kill()
            project.up()
        load.all_ended()


class TestNats(MeshFaults):
    """On a NATS server that is not the mesh's own."""

    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
        broker = NatsBroker(tmp_path_factory.mktemp("nats"))
        try:
            broker.open()
            yield broker
        finally:
            broker.proxy.close()
            broker.close()

    def test_the_whole_stream_is_deleted_under_the_mesh(
        self, project: Any, broker: NatsBroker, wait_until: Any
    ) -> None:
        project.up()
        assert project.call(["first", "second"], 1)["status"] == "succeeded"
        empty(project, wait_until)
        broker.ask(delete_stream)
        ids = [f"s-{number}" for number in range(40)]
        project.sending(["first", "second"], ids, 1).result(PATIENCE_S)
        assert project.all_ended(41, wait_s=PATIENCE_S) == {"succeeded": 41}
        assert set(ids) <= set(worked(project))
        assert "was deleted while being consumed; recreated it" in project.log("x-mesh")
        empty(project, wait_until)


class TestRabbitMQ(MeshFaults):
    """On a RabbitMQ of our own."""

    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
        if find_programs() is None and os.environ.get("CI") != "true":
            pytest.skip("there is no rabbitmq-server; apt-get install rabbitmq-server")
        broker = RabbitBroker(tmp_path_factory.mktemp("rabbitmq"))
        try:
            broker.open()
            yield broker
        finally:
            broker.proxy.close()
            broker.close()

    def test_the_disk_alarm_goes_off_and_is_over(
        self, project: Any, broker: RabbitBroker, wait_until: Any
    ) -> None:
        with under_load(project, wait_until) as load:
            broker.server.ctl("set_disk_free_limit", "900000GB")
            wait_until(lambda: alarms(project) == (1, 0), PATIENCE_S, project.said)
            # what it says to those who would send
            status, answer = project.ask(
                "POST", "/v1/envelopes", {"route": ["first"], "payload": 1}
            )
            assert status == 503
            assert "accepts no messages" in answer["detail"]
            broker.server.ctl("set_disk_free_limit", "50MB")
        load.all_ended()
        assert alarms(project) == (1, 1)
        assert told(project, broker) == (0, 0)


def alarms(project: Any) -> tuple[int, int]:
    """How often the mesh said that RabbitMQ accepts no messages, and that it does again."""
    log = project.log("x-mesh")
    return (
        len(re.findall(r"WARNING RabbitMQ at \S+ accepts no messages \(", log)),
        len(re.findall(r"RabbitMQ at \S+ accepts messages again", log)),
    )
