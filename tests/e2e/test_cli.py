"""The commands that talk to a mesh, against a real one that all tests here share."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HANDLERS = """
import os
import time


def double(payload):
    return payload * 2


def story(payload):
    for word in ("once", "upon"):
        yield "FLY", {"text": word + " "}
    yield {"words": 2}


def wait(payload):
    if isinstance(payload, str):  # until there is this file
        while not os.path.exists(payload):
            time.sleep(0.01)
    else:
        time.sleep(payload)
    return "waited"


def refuse(payload):
    raise ValueError(f"no {payload} here")
"""
ACTOR = """
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata: {{name: {name}}}
spec:
  handler: handlers.{name}
  resiliency: {{policies: {{default: {{maxAttempts: 1}}}}}}
---
"""
FLOW = """
apiVersion: asya.sh/v1alpha1
kind: Flow
metadata: {name: quadruple}
spec:
  route: [double, double]
  inputSchema: {type: integer}
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass
class Shell:
    """Runs commands in the folder of a mesh."""

    folder: Path
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "asya", *arguments]

    def run(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments), check=False, capture_output=True, text=True, timeout=60,
            input=stdin, cwd=self.folder, env=self.environment,
        )  # fmt: skip

    def start(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen(
            self.command(*arguments), cwd=self.folder, env=self.environment, **options
        )


def shell_in(folder: Path) -> Shell:
    environment = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "src"),
        "TERM": "xterm",
    }
    return Shell(folder, environment)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Shell]:
    with tempfile.TemporaryDirectory(prefix="cli-") as name:
        folder = Path(name)
        (folder / "handlers.py").write_text(HANDLERS)
        actors = [ACTOR.format(name=name) for name in ("double", "story", "wait", "refuse")]
        (folder / "mesh.yaml").write_text("".join(actors) + FLOW)
        shell = shell_in(folder)
        with shell.start("up", "--port", "0", stdout=None, stderr=None) as process:
            while shell.run("ps").returncode:
                assert process.poll() is None, "the mesh did not come up"
                time.sleep(0.1)
            yield shell
            process.terminate()
            assert process.wait(timeout=40) == 0


def test_call_a_flow(mesh: Shell) -> None:
    done = mesh.run("call", "quadruple", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "12\n", "")


def test_call_actors_by_name(mesh: Shell) -> None:
    assert mesh.run("call", "double,double,double", "1").stdout == "8\n"


def test_call_one_actor_with_stdin(mesh: Shell) -> None:
    assert mesh.run("call", "double", "-", stdin='"ö"').stdout == '"öö"\n'


def test_progress_and_streamed_text_go_to_stderr(mesh: Shell) -> None:
    done = mesh.run("call", "story", "null", "--progress", "--compact")
    assert done.stdout == '{"words": 2}\n'
    assert "once upon" in done.stderr
    assert "✓ story" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_terminal_gets_progress_without_asking(mesh: Shell) -> None:
    ours, theirs = pty.openpty()
    process = mesh.start("call", "quadruple", "1", stderr=theirs)
    os.close(theirs)
    assert process.communicate(timeout=30)[0] == "4\n"
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "✓ double" in shown
    assert "\x1b[32msucceeded" in shown


def test_a_payload_that_does_not_fit_is_wrong_use(mesh: Shell) -> None:
    done = mesh.run("call", "quadruple", '"three"')
    assert done.returncode == 2
    assert "$: " in done.stderr
    assert done.stdout == ""


def test_a_failed_envelope_is_exit_code_1_with_the_users_traceback(mesh: Shell) -> None:
    done = mesh.run("call", "refuse", '"tea"')
    assert done.returncode == 1
    assert "failed at refuse: ValueError: no tea here (PolicyExhausted)" in done.stderr
    assert 'raise ValueError(f"no {payload} here")' in done.stderr
    assert done.stdout == ""


def test_an_unknown_target_names_the_nearest(mesh: Shell) -> None:
    done = mesh.run("call", "quadrupel", "1")
    assert done.returncode == 2
    assert "neither a flow nor an actor" in done.stderr
    assert "did you mean quadruple?" in done.stderr


def test_an_unknown_actor_in_a_route_names_the_nearest(mesh: Shell) -> None:
    done = mesh.run("send", "double,refuze", "1")
    assert done.returncode == 2
    assert "refuse" in done.stderr


def test_many_payloads_from_a_file(mesh: Shell) -> None:
    file = mesh.folder / "many.jsonl"
    file.write_text("".join(f"{n}\n" for n in range(100)))
    done = mesh.run("call", "quadruple", "-f", str(file))
    assert done.returncode == 0
    assert [int(line) for line in done.stdout.splitlines()] == [4 * n for n in range(100)]


def test_many_payloads_of_which_one_fails(mesh: Shell) -> None:
    done = mesh.run("call", "refuse", "-f", "-", stdin='"a"\n"b"\n')
    assert done.returncode == 1
    errors = [json.loads(line)["error"] for line in done.stdout.splitlines()]
    assert [error["message"] for error in errors] == ["no a here", "no b here"]
    assert {error["reason"] for error in errors} == {"PolicyExhausted"}


def test_send_then_watch(mesh: Shell) -> None:
    sent = mesh.run("send", "double", "21")
    assert sent.returncode == 0
    watched = mesh.run("watch", sent.stdout.strip())
    assert (watched.returncode, watched.stdout) == (0, "42\n")


def test_the_same_id_is_sent_once(mesh: Shell) -> None:
    first = mesh.run("send", "double", "1", "--id", "order-1")
    second = mesh.run("send", "double", "1", "--id", "order-1")
    assert first.stdout == second.stdout == "order-1\n"


def test_watch_nothing(mesh: Shell) -> None:
    done = mesh.run("watch", "nobody")
    assert done.returncode == 2
    assert "nobody" in done.stderr


def test_cancel_ends_what_runs(mesh: Shell) -> None:
    envelope_id = mesh.run("send", "wait", "60").stdout.strip()
    assert mesh.run("cancel", envelope_id).returncode == 0
    assert mesh.run("cancel", envelope_id).returncode == 0, "twice is no error"
    watched = mesh.run("watch", envelope_id)
    assert watched.returncode == 1
    assert "canceled" in watched.stderr


def test_a_time_limit_ends_the_envelope(mesh: Shell) -> None:
    done = mesh.run("call", "wait", "60", "--timeout", "1s")
    assert done.returncode == 1
    assert re.search(r"failed at wait: .*(ActorTimeout|DeadlineExceeded)", done.stderr)


def test_an_interrupt_leaves_the_envelope_running_and_says_its_id(mesh: Shell) -> None:
    gate = mesh.folder / "gate"
    process = mesh.start("call", "wait", json.dumps(str(gate)), "--progress")
    assert process.stderr is not None
    assert any("… wait" in line for line in iter(process.stderr.readline, ""))

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in errors
    envelope_id = re.search(r"asya watch (\S+)", errors)
    assert envelope_id
    gate.touch()
    assert mesh.run("watch", envelope_id[1]).stdout == '"waited"\n'


def test_the_variable_names_the_mesh_from_elsewhere(mesh: Shell, tmp_path: Path) -> None:
    url = json.loads((mesh.folder / ".asya" / "mesh.json").read_text())["url"]
    elsewhere = shell_in(tmp_path)
    elsewhere.environment["ASYA_URL"] = url
    assert elsewhere.run("call", "double", "1").stdout == "2\n"


def test_without_a_mesh_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = shell_in(tmp_path).run("call", "double", "1")
    assert done.returncode == 3
    assert "start one with `asya up`" in done.stderr


def test_both_or_no_payload_is_wrong_use(tmp_path: Path) -> None:
    for arguments in (["double"], ["double", "1", "-f", "many.jsonl"]):
        done = shell_in(tmp_path).run("call", *arguments)
        assert done.returncode == 2
        assert "payload" in done.stderr


def test_the_runtime_is_reached_by_the_command(tmp_path: Path) -> None:
    done = shell_in(tmp_path).run("runtime", "--help")
    assert done.returncode == 0
    assert "ASYA_HANDLER" in done.stdout
