"""Replicas as real processes on a real socket: calls, signals, forks, deaths."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from asya.runtime.channel import EXIT_ORPHANED

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Starter


LIMIT_S = 20.0
"""Much less than handlers sleep here; nothing is proved by its being short."""


def test_a_replica_says_hello_when_its_handler_is_loaded(start: "Starter") -> None:
    replica = start("def handle(payload): return payload", concurrency=3, ASYA_TOKEN="secret")

    hello = replica.hello

    assert hello["v"] == 1
    assert hello["pid"] == replica.process.pid
    assert (hello["actor"], hello["handler"]) == ("shop", "shop.handle")
    assert (hello["concurrency"], hello["token"]) == (3, "secret")
    assert hello["python"].startswith("3.")
    assert hello["cooperative"] is False
    assert start("async def handle(payload): ...").hello["cooperative"] is True


@pytest.mark.parametrize(("define", "cooperative"), [("def", False), ("async def", True)])
def test_hello_says_whether_a_cancel_can_stop_the_handler(
    start: "Starter", define: str, cooperative: bool
) -> None:
    assert start(f"{define} handle(payload): return 1").hello["cooperative"] is cooperative


@pytest.mark.parametrize("define", ["def", "async def"])
def test_a_value_is_one_frame_and_none_is_no_frame(start: "Starter", define: str) -> None:
    replica = start(f"{define} handle(payload):\n    return payload or None")

    assert replica.ask(b'{"a": "\xc3\xa4"}') == [
        ({"k": "frame", "id": 1, "parts": [10]}, [b'{"a":"\xc3\xa4"}']),
        ({"k": "done", "id": 1, "frames": 1}, []),
    ]
    assert replica.ask(b"null") == [({"k": "done", "id": 1, "frames": 0}, [])]
    assert replica.bye() == 0


def test_a_payload_of_many_megabytes_passes(start: "Starter") -> None:
    replica = start("def handle(payload): return payload")
    payload = json.dumps(["x" * 1000] * 20_000, separators=(",", ":")).encode()

    frame, _ = replica.ask(payload)

    assert frame[1] == [payload]


@pytest.mark.parametrize("define", ["def", "async def"])
def test_calls_that_were_sent_ahead_run_in_order(start: "Starter", define: str) -> None:
    replica = start(f"{define} handle(payload): return payload")

    for number in range(200):
        replica.call(b"%d" % number, call_id=number)
    parts = [part for _ in range(200) for _, part in replica.answer() if part]

    assert parts == [[b"%d" % number] for number in range(200)]


@pytest.mark.parametrize("define", ["def", "async def"])
def test_at_most_concurrency_calls_run_at_a_time(start: "Starter", define: str) -> None:
    pause = "time.sleep(0.02)" if define == "def" else "await asyncio.sleep(0.02)"
    # three are waited for; a fourth would show itself in the pause after that
    replica = start(
        "import asyncio, time\nrunning = most = 0\n"
        f"{define} handle(payload):\n    global running, most\n    running += 1\n"
        "    most = max(most, running)\n"
        f"    while most < 3:\n        {pause}\n"
        f"    {pause}\n    running -= 1\n    return most",
        concurrency=3,
    )

    for number in range(12):
        replica.call(call_id=number)
    answers = [replica.receive() for _ in range(24)]
    seen = [json.loads(parts[0]) for header, parts in answers if header["k"] == "frame"]

    assert len(seen) == 12
    assert max(seen) == 3


def test_a_plain_handler_may_run_its_own_event_loop(start: "Starter") -> None:
    replica = start(
        "import asyncio\nasync def inner(p): return p\n"
        "def handle(payload): return asyncio.run(inner(payload))"
    )

    assert replica.ask(b"7")[0][1] == [b"7"]


@pytest.mark.parametrize(
    "handle",
    [
        "async def handle(payload): return await work(payload)",
        "def handle(payload): return work(payload)",
    ],
)
def test_one_event_loop_lives_as_long_as_the_replica(start: "Starter", handle: str) -> None:
    replica = start(
        "import asyncio\nloops = []\n"
        "async def work(payload):\n    loops.append(asyncio.get_running_loop())\n"
        "    return all(loop is loops[0] for loop in loops)\n" + handle
    )

    answers = [replica.ask()[0][1] for _ in range(3)]

    assert answers == [[b"true"]] * 3
    assert replica.bye() == 0


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()"])
@pytest.mark.parametrize("define", ["def", "async def"])
def test_no_exception_of_a_handler_ends_the_replica(
    start: "Starter", raised: str, define: str
) -> None:
    replica = start(f"{define} handle(payload):\n    if payload: raise {raised}\n    return 1")

    assert replica.ask(b"1")[0][0]["error"]["type"] == raised.split("(", maxsplit=1)[0]
    assert replica.ask(b"0")[0][1] == [b"1"]


def test_a_task_of_the_users_that_exits_does_not_end_the_replica(start: "Starter") -> None:
    replica = start(
        "import asyncio, sys\nasync def leave(): sys.exit(5)\n"
        "async def handle(payload):\n    if payload: await asyncio.create_task(leave())\n"
        "    return 1"
    )

    assert replica.ask(b"1")[0][0]["error"]["type"] == "SystemExit"
    assert replica.ask(b"0")[0][1] == [b"1"]


def test_os_exit_ends_the_process_and_the_sidecar_sees_it(start: "Starter") -> None:
    replica = start("import os\ndef handle(payload): os._exit(9)")

    replica.call()

    with pytest.raises(EOFError):
        replica.receive()
    assert replica.process.wait(20) == 9


def test_a_child_that_returns_from_the_handler_says_nothing(start: "Starter") -> None:
    replica = start(
        "import os\ndef handle(payload):\n    pid = os.fork()\n"
        "    if pid == 0: return 'child'\n    return os.waitpid(pid, 0)[1]"
    )

    for _ in range(3):
        assert replica.ask()[0][1] == [b"0"]


@pytest.mark.parametrize(
    ("leave", "code"), [("raise ValueError('oops')", 1), ("raise SystemExit(7)", 7)]
)
def test_a_child_that_raises_ends_with_its_exit_code(
    start: "Starter", leave: str, code: int
) -> None:
    replica = start(
        "import os\ndef handle(payload):\n    pid = os.fork()\n"
        f"    if pid == 0: {leave}\n    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
    )

    assert replica.ask()[0][1] == [b"%d" % code]


def test_the_socket_is_open_in_no_child(start: "Starter") -> None:
    replica = start(
        "import os, subprocess, sys, stat\n"
        "def open_socket(fd):\n    try: return stat.S_ISSOCK(os.fstat(fd).st_mode)\n"
        "    except OSError: return False\n"
        "def handle(payload):\n    read, write = os.pipe()\n    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os.write(write, b'%d' % sum(map(open_socket, range(3, 64))))\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n    mine = sum(map(open_socket, range(3, 64)))\n"
        "    return [mine, int(os.read(read, 9))]"
    )

    assert replica.ask()[0][1] == [b"[1,0]"]


def test_children_of_a_handler_can_be_terminated(start: "Starter") -> None:
    replica = start(
        "import multiprocessing, time\n"
        "def work(): time.sleep(60)\n"
        "def handle(payload):\n"
        "    child = multiprocessing.get_context('fork').Process(target=work)\n"
        "    child.start(); child.terminate(); child.join(); return child.exitcode"
    )

    assert replica.ask()[0][1] == [b"-15"]


def test_what_a_handler_prints_never_reaches_the_socket(start: "Starter") -> None:
    replica = start(
        "import os, sys\ndef handle(payload):\n    print('x' * 1_000_000)\n"
        "    os.write(2, b'raw')\n    return 1"
    )

    replica.call()
    assert replica.process.stdout is not None
    printed = os.read(replica.process.stdout.fileno(), 10)
    rest = replica.process.stdout.read(1_000_001 + 3 - len(printed))

    assert replica.answer() == [
        ({"k": "frame", "id": 1, "parts": [1]}, [b"1"]),
        ({"k": "done", "id": 1, "frames": 1}, []),
    ]
    assert printed + rest == b"x" * 1_000_000 + b"\nraw"


def test_a_printed_line_leaves_at_once_and_in_utf_8(start: "Starter") -> None:
    replica = start(
        "import threading\ndef handle(payload):\n    print('gr\\u00f6\\u00dfe')\n"
        "    threading.Event().wait()",
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )

    replica.call()

    assert replica.process.stdout is not None
    assert replica.process.stdout.readline() == "größe\n".encode()


@pytest.mark.parametrize(
    "handle",
    [
        "def handle(payload):\n    print('busy', flush=True)\n    time.sleep(60)",
        "def handle(payload):\n    print('busy', flush=True)\n    while True: pass",
        "async def handle(payload):\n    print('busy', flush=True)\n    time.sleep(60)",
        "async def handle(payload):\n    print('busy')\n    await asyncio.sleep(60)",
    ],
)
def test_the_end_of_the_sidecar_ends_a_busy_replica_at_once(start: "Starter", handle: str) -> None:
    replica = start("import asyncio, time\n" + handle)
    replica.call()
    assert replica.process.stdout is not None
    assert replica.process.stdout.readline() == b"busy\n"

    replica.sock.close()

    assert replica.process.wait(LIMIT_S) == EXIT_ORPHANED


@pytest.mark.parametrize("define", ["def", "async def"])
def test_the_end_of_the_sidecar_ends_an_idle_replica(start: "Starter", define: str) -> None:
    replica = start(f"{define} handle(payload): return 1")

    replica.sock.close()

    assert replica.process.wait(LIMIT_S) == EXIT_ORPHANED


@pytest.mark.parametrize("define", ["def", "async def"])
def test_sigterm_is_told_and_work_goes_on_until_bye(start: "Starter", define: str) -> None:
    replica = start(
        "import time\n"
        f"{define} handle(payload):\n"
        "    if payload:\n        print('busy', flush=True)\n        time.sleep(0.3)\n"
        "    return 1"
    )
    replica.call(b"1")
    assert replica.process.stdout is not None
    assert replica.process.stdout.readline() == b"busy\n"

    replica.process.send_signal(signal.SIGTERM)
    heard = [replica.receive()[0]["k"] for _ in range(3)]

    assert sorted(heard) == ["done", "frame", "terminating"]
    assert replica.ask(b"0")[0][1] == [b"1"]
    replica.process.send_signal(signal.SIGTERM)
    assert replica.bye() == 0


def test_sigterm_is_told_while_a_plain_handler_sleeps(start: "Starter") -> None:
    replica = start(
        "import time\ndef handle(payload):\n    print('busy', flush=True)\n    time.sleep(60)"
    )
    replica.call()
    assert replica.process.stdout is not None
    assert replica.process.stdout.readline() == b"busy\n"

    replica.process.send_signal(signal.SIGTERM)

    assert replica.receive()[0] == {"k": "terminating"}


def test_sigint_means_nothing_to_a_replica_in_its_own_session(start: "Starter") -> None:
    replica = start("def handle(payload): return 1")

    replica.process.send_signal(signal.SIGINT)

    assert replica.ask()[0][1] == [b"1"]


SHOP = """
class Shop:
    def __init__(self): print("made")
    {extra}
    {define} handle(self, payload): return payload
"""


@pytest.mark.parametrize(
    ("define", "extra", "printed"),
    [
        ("def", "def close(self): print('closed')", "made closed"),
        ("async def", "async def aclose(self): print('closed')", "made closed"),
        ("def", "async def aclose(self): print('closed')", "made closed"),
        (
            "def",
            "def __enter__(self): print('in'); return self\n    def __exit__(self, *_): print('out')",
            "made in out",
        ),
        (
            "async def",
            (
                "async def __aenter__(self): print('in')\n"
                "    async def __aexit__(self, *_): print('out')"
            ),
            "made in out",
        ),
        ("def", "def close(self): raise ValueError('late')", "made late"),
    ],
)
def test_a_class_is_made_once_and_closed_at_the_end(
    start: "Starter", define: str, extra: str, printed: str
) -> None:
    source = SHOP.format(define=define, extra=extra)
    replica = start(source, "shop.Shop.handle")

    replica.ask()
    replica.ask()

    assert replica.bye() == 0
    said = [line.split()[-1] for line in replica.printed().splitlines() if "File" not in line]
    assert [word for word in said if word in printed.split()] == printed.split()


def test_a_class_of_an_async_handler_is_made_inside_its_loop(start: "Starter") -> None:
    replica = start(
        "import asyncio\nclass Shop:\n"
        "    def __init__(self): self.loop = asyncio.get_running_loop()\n"
        "    async def handle(self, p): return self.loop is asyncio.get_running_loop()",
        "shop.Shop.handle",
    )

    assert replica.ask()[0][1] == [b"true"]


def test_cancel_ends_an_async_call(start: "Starter") -> None:
    replica = start(
        "import asyncio\nasync def handle(payload):\n    print('busy')\n    await asyncio.sleep(60)"
    )
    replica.call(call_id=5)
    assert replica.process.stdout is not None
    assert replica.process.stdout.readline() == b"busy\n"

    replica.send({"k": "cancel", "id": 5})

    assert replica.receive()[0] == {"k": "canceled", "id": 5}


def test_cancel_of_calls_that_wait_or_have_not_begun(start: "Starter") -> None:
    replica = start("import asyncio\nasync def handle(payload): await asyncio.sleep(payload)")
    replica.call(b"60", call_id=1)
    replica.call(b"0", call_id=2)
    replica.send({"k": "cancel", "id": 2})
    replica.send({"k": "cancel", "id": 1})
    replica.send({"k": "cancel", "id": 99})
    replica.call(b"0", call_id=3)

    heard = [replica.receive()[0] for _ in range(3)]

    assert heard == [
        {"k": "canceled", "id": 2},
        {"k": "canceled", "id": 1},
        {"k": "done", "id": 3, "frames": 0},
    ]


def test_a_handler_that_answers_a_cancel_with_a_value_has_answered(start: "Starter") -> None:
    replica = start(
        "import asyncio\nasync def handle(payload):\n"
        "    try:\n        print('busy')\n        await asyncio.sleep(60)\n"
        "    except asyncio.CancelledError: return 'kept'"
    )
    replica.call()
    assert replica.process.stdout is not None
    replica.process.stdout.readline()

    replica.send({"k": "cancel", "id": 1})

    assert replica.answer()[0][1] == [b'"kept"']


def test_cancel_of_a_plain_call_is_ignored(start: "Starter") -> None:
    replica = start("def handle(payload): return payload")
    replica.call(b"1")
    replica.send({"k": "cancel", "id": 1})

    assert replica.answer()[0][1] == [b"1"]
    assert replica.ask(b"2")[0][1] == [b"2"]


@pytest.mark.parametrize("define", ["def", "async def"])
def test_a_generator_waits_for_a_sidecar_that_does_not_read(
    start: "Starter", wait_for: Callable[..., Any], define: str
) -> None:
    replica = start(
        "import os, pathlib\n"
        f"{define} handle(payload):\n    for at in range(1_000_000):\n"
        "        if at % 100 == 0: pathlib.Path('at').write_text(str(at))\n"
        "        yield 'x' * 1000"
    )
    file = start.folder / "at"
    replica.call()

    wait_for(file.exists)
    seen = [-1, 0]
    while seen[-1] != seen[-2]:
        replica.receive()
        try:
            replica.process.wait(0.5)
        except subprocess.TimeoutExpired:
            seen.append(int(file.read_text() or -1))

    assert seen[-1] < 5000


@pytest.mark.parametrize("define", ["def", "async def"])
def test_many_frames_arrive_whole_and_in_order(start: "Starter", define: str) -> None:
    replica = start(f"{define} handle(payload):\n    for at in range(20_000): yield at")

    answer = replica.ask()

    assert [int(parts[0]) for _, parts in answer[:-1]] == list(range(20_000))
    assert answer[-1][0] == {"k": "done", "id": 1, "frames": 20_000}


def test_an_unknown_kind_of_call_is_refused_and_an_unknown_frame_ignored(start: "Starter") -> None:
    replica = start("def handle(payload): return 1")

    replica.send({"k": "riddle", "id": 1})
    replica.send({"k": "call", "id": 2, "kind": "step", "envelope": {}}, b"1")

    assert replica.receive()[0]["error"]["type"] == "asya.runtime.UnknownCallKind"


def test_a_payload_that_is_no_json_fails_its_call_alone(start: "Starter") -> None:
    replica = start("def handle(payload): return 1")

    assert "Expecting" in replica.ask(b"{oops")[0][0]["error"]["message"]
    assert "NaN" in replica.ask(b"[NaN]")[0][0]["error"]["message"]
    assert "deep" in replica.ask(b"[" * 99999 + b"]" * 99999)[0][0]["error"]["message"]
    assert replica.ask(b"1")[0][1] == [b"1"]


def test_bytes_that_are_no_frame_end_the_replica_with_a_message(start: "Starter") -> None:
    replica = start("def handle(payload): return 1")

    replica.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")

    assert replica.process.wait(LIMIT_S) == EXIT_ORPHANED
    assert "no frame" in replica.printed()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import nothing_like_it", "No module named 'nothing_like_it'"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def handel(payload): ...", "did you mean 'handel'"),
        ("def handle(): ...", "takes no argument"),
    ],
)
def test_a_handler_that_cannot_be_loaded_is_reported(
    start: "Starter", source: str, text: str
) -> None:
    replica = start(source, hello=False)

    header, _ = replica.receive()

    assert header["k"] == "failed"
    assert text in header["error"]["message"]
    assert replica.process.wait(LIMIT_S) == 3
    assert text in replica.printed()


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"ASYA_SOCKET": ""}, "ASYA_SOCKET is not set"),
        ({"ASYA_SOCKET": "s", "ASYA_HANDLER": "a.b", "ASYA_CONCURRENCY": "0"}, "from 1 to"),
        ({"ASYA_SOCKET": "s", "ASYA_HANDLER": "a.b", "ASYA_CONCURRENCY": "many"}, "from 1 to"),
    ],
)
def test_wrong_settings_exit_with_2(
    environ: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from asya.runtime.__main__ import main

    assert main([], environ) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("define", ["def", "async def"])
def test_a_thread_that_was_left_behind_does_not_keep_the_replica(
    start: "Starter", define: str
) -> None:
    replica = start(
        "import threading, asya.runtime.serve\nasya.runtime.serve.CLOSE_S = 0.1\n"
        f"{define} handle(payload):\n    threading.Thread(target=threading.Event().wait).start()"
    )

    replica.ask()

    assert replica.bye() == 0
