"""The scheduler's web pages, for whoever knows their address alone.

Dask's pages ask nobody who they are: they show tasks, logs and stacks of running code to every user
of the machine. Here their address has a word in it that the run's log tells, as Jupyter does it,
and all other addresses are refused, those that would give the word away among them.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any

import dask
from distributed import Scheduler
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import Router
from tornado.web import Application, ErrorHandler

__all__ = ["PAGES", "PrivateScheduler", "dashboard_of"]

PAGES = {
    # Whatever the user's own settings of Dask ask for: `api` lets anybody retire workers, and
    # `proxy` lets them reach the ports of workers.
    "distributed.scheduler.http.routes": [
        "distributed.http.scheduler.info",
        "distributed.http.scheduler.json",
        "distributed.http.health",
        "distributed.http.statics",
    ],
}
"""Dask's settings of a scheduler that the driver starts."""


class PrivateScheduler(Scheduler):
    """A scheduler whose pages lie below a word of its own."""

    def __init__(self, **options: Any) -> None:
        self.word = secrets.token_urlsafe(16)
        routes = "distributed.scheduler.http.routes"
        with dask.config.set({routes: list(PAGES[routes])}):  # to which it may append
            super().__init__(http_prefix=f"/{self.word}", **options)

    def start_http_server(self, *arguments: Any, **more: Any) -> None:
        super().start_http_server(*arguments, **more)  # type: ignore[no-untyped-call]
        self.http_server.request_callback = _Gate(self.http_application, self.word)


class _Gate(Router):
    """Passes on what begins with the word; the rest is not found."""

    def __init__(self, pages: Router, word: str) -> None:
        self._pages, self._word = pages, f"/{word}/".encode()
        self._none = Application(
            default_handler_class=ErrorHandler, default_handler_args={"status_code": 404}
        )

    def find_handler(self, request: HTTPServerRequest, **more: Any) -> HTTPMessageDelegate | None:
        said = request.path.encode()[: len(self._word)]
        known = hmac.compare_digest(said, self._word)
        return (self._pages if known else self._none).find_handler(request, **more)


def dashboard_of(cluster: Any) -> str | None:
    """Where the pages of a `PrivateScheduler` are, with its word.

    Parameters
    ----------
    cluster : SpecCluster
    """
    link = cluster.dashboard_link
    if not link:
        return None
    start, status, rest = link.rpartition("/status")
    return f"{start}/{cluster.scheduler.word}{status}{rest}"
