"""Ray Serve doing what a row measures, in its own environment (`make bench-peers`).

    .venv/bin/python ray_serve.py start|idle|hop|zero|kill

Prints one JSON object {"what", "value", "unit"}. `start` and `idle` run this file again with
`serve` as the application.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import psutil

URL = "http://127.0.0.1:8000/"
LIMIT_S = 90.0
CALLS = 100
HOPS = 300
PAYLOAD = {"text": "x" * 1000, "n": 1}


def get(path: str = "", timeout_s: float = 60) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(URL + path, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def wait_for_answer() -> None:
    until = time.monotonic() + LIMIT_S
    while get(timeout_s=5)[0] != 200:
        if time.monotonic() > until:
            raise SystemExit("Ray Serve did not answer")
        time.sleep(0.02)


def quiet_ray() -> None:
    import ray

    ray.init(num_cpus=8, log_to_driver=False, logging_level="ERROR", include_dashboard=False)


def deployment(**options: object):  # noqa: ANN201  Ray's own types are not installed here
    """A deployment that echoes, sleeps, and tells its pid."""
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0.05}, max_ongoing_requests=200, **options)
    class Echo:
        async def __call__(self, request) -> str:  # noqa: ANN001  Starlette's request, as above
            await asyncio.sleep(float(request.query_params.get("sleep", 0)))
            return str(os.getpid())

        async def step(self, payload: dict) -> dict:
            return payload

    return Echo


def application() -> None:
    from ray import serve

    serve.run(deployment().bind())
    while True:
        time.sleep(1)


@contextlib.contextmanager
def started():  # noqa: ANN201  a generator behind its decorator: two values in one type
    """The application in a process of its own; yields seconds to the first answer, and its tree."""
    before = set(psutil.pids())
    environ = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, __file__, "serve"],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def tree() -> list[psutil.Process]:
        found = []
        for pid in set(psutil.pids()) - before:
            with contextlib.suppress(psutil.Error):
                one = psutil.Process(pid)
                if pid == process.pid or "ray" in " ".join(one.cmdline()).lower():
                    found.append(one)
        return found

    try:
        wait_for_answer()
        yield time.perf_counter() - began, tree
    finally:
        mine = tree()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for one in mine:
            with contextlib.suppress(psutil.Error):
                one.kill()


def start() -> dict[str, object]:
    with started() as (took_s, _):
        return {"what": "Ray Serve", "value": round(took_s, 2), "unit": "s"}


def idle() -> dict[str, object]:
    with started() as (_, tree):
        time.sleep(8)
        processes = tree()
        memory = 0
        for one in processes:
            with contextlib.suppress(psutil.Error):
                memory += one.memory_full_info().pss
        before = sum(sum(one.cpu_times()[:2]) for one in processes if one.is_running())
        time.sleep(8)
        cores = (sum(sum(o.cpu_times()[:2]) for o in processes if o.is_running()) - before) / 8
        value = {"processes": len(processes), "MiB": memory >> 20, "cores": round(cores, 3)}
        return {"what": "Ray Serve, one deployment", "value": value, "unit": ""}


def hop() -> dict[str, object]:
    from ray import serve

    quiet_ray()

    @serve.deployment(ray_actor_options={"num_cpus": 0.05})
    class Caller:
        def __init__(self, echo) -> None:  # noqa: ANN001  a handle of Ray's, as above
            self.echo = echo

        async def measure(self) -> list[float]:
            took = []
            for _ in range(HOPS):
                began = time.perf_counter()
                await self.echo.step.remote(PAYLOAD)
                took.append(time.perf_counter() - began)
            return took[50:]

    handle = serve.run(Caller.bind(deployment().bind()), route_prefix=None)
    took = handle.measure.remote().result()
    return {"what": "Ray Serve p50", "value": round(statistics.median(took) * 1e3, 2), "unit": "ms"}


def zero() -> dict[str, object]:
    from ray import serve

    quiet_ray()
    scale = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}
    serve.run(deployment(autoscaling_config=scale).bind())
    time.sleep(2)
    began = time.perf_counter()
    wait_for_answer()
    return {"what": "Ray Serve", "value": round((time.perf_counter() - began) * 1e3), "unit": "ms"}


def kill() -> dict[str, object]:
    from ray import serve

    quiet_ray()
    serve.run(deployment().bind())
    wait_for_answer()
    time.sleep(1)
    pid = int(get()[1])
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(get("?sleep=0.5")[0])) for _ in range(CALLS)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.35)
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    lost = CALLS - codes.count(200)
    return {"what": "Ray Serve, lost", "value": lost, "unit": ""}


def main() -> None:
    jobs = {"start": start, "idle": idle, "hop": hop, "zero": zero, "kill": kill}
    if sys.argv[1] == "serve":
        application()
    print(json.dumps(jobs[sys.argv[1]]()), flush=True)
    # Ray's own clean-up takes up to half a minute; what it started is ours alone
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
