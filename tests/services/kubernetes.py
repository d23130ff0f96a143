"""As much of Kubernetes' API as opening a cluster asks for: it keeps, lists and removes resources.

There are no pods: a test says what state the scheduler's is in.
"""

from __future__ import annotations

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

READY: dict[str, Any] = {
    "phase": "Running",
    "conditions": [{"type": "Ready", "status": "True"}],
}


class Kubernetes(ThreadingHTTPServer):
    """An API server; `there` are resources by kind and name, `made` is all that ever was."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.forget()
        self.config = folder / "kubeconfig"
        cluster = {"server": f"http://127.0.0.1:{self.server_address[1]}"}
        self.config.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "a", "cluster": cluster}],
                    "users": [{"name": "a", "user": {}}],
                    "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
                    "current-context": "a",
                }
            )
        )
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def forget(self) -> None:
        """As at the start."""
        self.there: dict[tuple[str, str], dict[str, Any]] = {}
        self.made: list[dict[str, Any]] = []
        self.pod: dict[str, Any] | None = READY
        self.refuses: dict[str, int] = {}  # kinds, and the status

    def kinds(self) -> list[str]:
        """Kinds of what is there now."""
        return sorted(kind for kind, _ in self.there)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may hang up."""


class _Handler(BaseHTTPRequestHandler):
    # of HTTP/1.0, so that no connection stays open
    server: Kubernetes

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/version":
            return self._answer(200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
        if path.endswith("/pods"):
            pod = self.server.pod
            items = [] if pod is None else [{"metadata": {"name": "pod"}, "status": pod}]
            return self._answer(200, {"kind": "PodList", "items": items})
        return self._status(404, "not found")

    def do_POST(self) -> None:
        found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind, name = found["kind"], found["metadata"]["name"]
        if status := self.server.refuses.get(kind):
            return self._status(status, f"{kind} is forbidden")
        if (kind, name) in self.server.there:
            return self._status(409, f"{name} already exists")
        self.server.made.append(json.loads(json.dumps(found)))
        found["metadata"]["uid"] = str(uuid.uuid4())
        self.server.there[kind, name] = found
        return self._answer(201, found)

    def do_DELETE(self) -> None:
        """What a cluster owns goes with it."""
        name = self.path.partition("?")[0].rpartition("/")[2]
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        there = self.server.there
        gone = [key for key in there if key[1] == name]
        if not gone:
            return self._status(404, "not found")
        for key in gone:
            uid = there.pop(key)["metadata"]["uid"]
            for other, found in list(there.items()):
                owners = found["metadata"].get("ownerReferences", ())
                if any(owner["uid"] == uid for owner in owners):
                    there.pop(other)
                if found["kind"] == "DaskWorkerGroup" and found["spec"]["cluster"] == name:
                    there.pop(other, None)
        return self._answer(200, {"kind": "Status", "status": "Success"})

    def _status(self, status: int, text: str) -> None:
        self._answer(status, {"kind": "Status", "code": status, "message": text})

    def _answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing."""
