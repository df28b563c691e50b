"""Keeps web pages away from the mesh: checks `Host` and `Origin` while the gateway is on loopback.

A page of another site can make the browser send requests to 127.0.0.1. Such a request carries the
page's own `Origin`, or, after DNS rebinding, its own `Host`. Both are refused.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from asya.gateway.http.problems import HttpProblem
from asya.gateway.http.respond import problem_response
from asya.settings import is_loopback


class LoopbackGuard:
    """Refuses requests that a page of another site may have caused."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._good_hosts: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await problem_response(problem)(scope, receive, send)

    def _problem(self, scope: Scope) -> HttpProblem | None:
        host = origin = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1").lower()
            elif name == b"origin":
                origin = value.decode("latin-1").lower()
        if host is None or not self._is_good(host):
            return HttpProblem(
                "forbidden-origin",
                f"the Host header names {host!r}; on loopback only localhost, 127.0.0.1 and [::1] "
                "are answered",
            )
        if origin is not None and origin != f"http://{host}":
            return HttpProblem(
                "forbidden-origin",
                f"pages of {origin} may not use this gateway; call it from a program, or serve "
                "the page behind a proxy of your own",
            )
        return None

    def _is_good(self, host: str) -> bool:
        if host in self._good_hosts:
            return True
        name, _, port = host.rpartition(":")
        if not port.isdigit() or host.endswith("]"):
            name = host
        good = is_loopback(name.removesuffix("."))
        if good and len(self._good_hosts) < 100:
            self._good_hosts.add(host)
        return good
