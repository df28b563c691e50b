"""Runs this example from nothing to nothing: a mesh comes up, answers questions, goes down.

Everything is done by the command `asya`, as a user would; this script only types. What it says
goes to stderr, the answers go to stdout as JSON lines. `--stay` keeps the mesh up until Ctrl-C.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ASYA = [sys.executable, "-m", "asya"]
READY_MAX_S = 20
ZERO_MAX_S = 20
COOLDOWN = "3s"
BURST = 50
STARTED = time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stay", action="store_true", help="keep the mesh up until Ctrl-C")
    stay = parser.parse_args().stay
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the mesh is stopped, too
    with tempfile.TemporaryDirectory(prefix="asya-demo-") as data, mesh(Path(data)) as url:
        say(f"the mesh is up at {url}, with no replica of any actor")
        with replicas_shown(url):
            for line in (HERE / "questions.jsonl").read_text().splitlines():
                ask(url, line)
            ask_many(url, Path(data) / "many.jsonl")
            wait_for_zero(url)
        if stay:
            say(f"""the mesh stays up; ask it, and end it with Ctrl-C:
    asya call search '{{"query": "sort a list"}}' --url {url}""")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    say("the mesh is down, nothing is left behind")
    return 0


@contextlib.contextmanager
def mesh(data: Path) -> Iterator[str]:
    """A mesh of the actors in this folder; gives its address. Its end leaves no process."""
    log = data / "up.log"
    options = ["--port", "0", "--cooldown", COOLDOWN]
    say(f"asya up {os.path.relpath(HERE)} {' '.join(options)}")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*ASYA, "up", str(HERE), *options],
            stdout=out,
            stderr=out,
            cwd=data,
            start_new_session=True,
        )
    try:
        yield wait_until_ready(process, data / ".asya" / "mesh.json", log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen, record: Path, log: Path) -> str:
    for _ in range(READY_MAX_S * 20):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, ValueError, KeyError):
            url = json.loads(record.read_text())["url"]
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return url
        time.sleep(0.05)
    sys.exit(f"the mesh did not come up:\n{log.read_text()}")


def ask(url: str, question: str) -> None:
    say(f"asya call search '{question}'")
    command = [*ASYA, "call", "search", question, "--progress", "--compact"]
    environment = {**os.environ, "ASYA_URL": url}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode != 0:
        sys.exit(f"the call failed with exit code {done.returncode}")
    sys.stdout.write(done.stdout)
    sys.stdout.flush()


def ask_many(url: str, questions: Path) -> None:
    """The same questions again and again, at once, so that there is work for a second replica."""
    questions.write_text((HERE / "questions.jsonl").read_text() * BURST)
    say(f"asya call search -f {questions.name}")
    began = time.monotonic()
    command = [*ASYA, "call", "search", "-f", str(questions), "--concurrency", "64", "--url", url]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"the calls failed with exit code {done.returncode}")
    answers = len(done.stdout.splitlines())
    say(f"{answers} answers in {time.monotonic() - began:.1f} s")


def replicas(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}/v1/actors", timeout=5) as response:
        actors = json.load(response)["actors"]
    return {
        actor["name"]: sum(replica["state"] != "terminating" for replica in actor["replicas"])
        for actor in actors
    }


@contextlib.contextmanager
def replicas_shown(url: str) -> Iterator[None]:
    """Says whenever the number of an actor's replicas changes."""
    over = threading.Event()

    def look() -> None:
        seen = dict[str, int]()
        while not over.wait(0.1):
            with contextlib.suppress(OSError):
                now = replicas(url)
                for name, count in now.items():
                    if count != seen.get(name, 0):
                        say(f"    {name}: {seen.get(name, 0)} → {count} replicas")
                seen = now

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def wait_for_zero(url: str) -> None:
    say(f"no more questions: replicas go after {COOLDOWN} without work")
    give_up = time.monotonic() + ZERO_MAX_S
    while any(replicas(url).values()):
        if time.monotonic() > give_up:
            sys.exit(f"replicas are still there: {replicas(url)}")
        time.sleep(0.1)
    time.sleep(0.3)  # the one who shows the changes looks every 0.1 s


def say(text: str) -> None:
    sys.stderr.write(f"{time.monotonic() - STARTED:5.1f} s  {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
