"""An object store that takes conditions of writes and ignores them, as some do."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests


class Forgetful:
    """Passes everything else on to the service behind it.

    Attributes
    ----------
    url : str
    """

    def __init__(self, behind: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                heads = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in ("if-none-match", "if-match", "host")
                }
                answer = requests.request(
                    self.command, behind + self.path, data=body, headers=heads, timeout=20
                )
                self.send_response(answer.status_code)
                for name in ("ETag", "Last-Modified", "Content-Type"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                length = answer.headers.get("Content-Length", str(len(answer.content)))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.content)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
