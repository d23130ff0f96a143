"""Another user of the machine, who tries every door: a process that gives its rights up.

Run as a script it reads what to try as JSON, imports what it needs, becomes user 65534, and says
what came of it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest

NOBODY = 65534
_SECONDS = 120.0  # a loaded machine answers late; nobody waits where it works


def knock(
    doors: Iterable[str] = (), pages: Iterable[str] = (), files: Iterable[str] = ()
) -> dict[str, dict[str, str]]:
    """What another user gets.

    Parameters
    ----------
    doors : addresses as tcp://host:port or tls://host:port.
        Each is tried in the clear, with TLS and no certificate, and with a certificate of the
        stranger's own.
    pages : methods and addresses of web pages, as ``GET http://host:port/``.
        A body is announced and never sent: whoever waits for it is caught at that.
    files : paths.

    Returns
    -------
    dict of dicts, for each door, page and file: how it was tried, and ``in`` or the refusal.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    told = {"doors": list(doors), "pages": list(pages), "files": list(files)}
    found = subprocess.run(
        [sys.executable, __file__], input=json.dumps(told), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    answer: dict[str, dict[str, str]] = json.loads(found.stdout)
    return answer


def _ways() -> dict[str, tuple[str, dict[str, Any]]]:
    """Protocol and arguments of each try."""
    from distributed.security import Security

    from engine.clusters.tls import make_certificate

    certificate, key = (text.decode() for text in make_certificate())
    own = Security(
        require_encryption=True,
        tls_ca_file=certificate,
        tls_client_cert=certificate,
        tls_client_key=key,
    ).get_connection_args("client")
    own["ssl_context"].verify_mode = ssl.CERT_NONE  # whom it speaks to is all the same to it
    bare = ssl.create_default_context()
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE
    return {
        "in the clear": ("tcp", {}),
        "without a certificate": ("tls", {"ssl_context": bare, "require_encryption": True}),
        "with another certificate": ("tls", own),
    }


async def _try(address: str, protocol: str, arguments: dict[str, Any]) -> str:
    """Ask for what every scheduler, worker and nanny tells those whom it lets in."""
    from distributed.comm.core import CommClosedError
    from distributed.comm.tcp import TCPConnector, TLSConnector
    from distributed.core import send_recv

    connector = {"tcp": TCPConnector, "tls": TLSConnector}[protocol]()
    try:
        async with asyncio.timeout(_SECONDS):
            comm = await connector.connect(address.partition("://")[2], **arguments)
            await comm.write(comm.handshake_info())
            await comm.read()
            told = await send_recv(comm, op="identity")
        return "in" if told["id"] is not None else repr(told)
    except ValueError as error:  # of tornado, where a server without TLS has spoken first
        return f"refused: {error}"
    except (CommClosedError, OSError) as error:
        if isinstance(error, TimeoutError):
            return "no answer"
        return f"refused: {type(error).__name__}"


def _fetch(page: str) -> str:
    method, address = page.split()
    host, _, path = address.removeprefix("http://").partition("/")
    line = http.client.HTTPConnection(host, timeout=_SECONDS)
    body = {} if method == "GET" else {"Content-Length": str(10**12)}
    try:
        line.request(method, f"/{path}", headers=body)
        answer = line.getresponse()
        text = answer.read().decode(errors="replace") + repr(answer.getheaders())
    except TimeoutError:
        return "no answer"
    except (OSError, http.client.HTTPException) as error:
        return f"refused: {type(error).__name__}"
    return f"{answer.status} {text}"


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return f"refused: {type(error).__name__}"
    return "in"


async def _main(told: dict[str, Any]) -> dict[str, dict[str, str]]:
    import distributed.comm.tcp  # noqa: F401 (whatever it imports later may be out of reach)

    ways = _ways()
    socket.getaddrinfo("127.0.0.1", 1)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    found: dict[str, dict[str, str]] = {}
    for door in told["doors"]:
        tries = [_try(door, *way) for way in ways.values()]
        found[door] = dict(zip(ways, await asyncio.gather(*tries), strict=True))
    for page in told["pages"]:
        found[page] = {"page": _fetch(page)}
    for path in told["files"]:
        found[path] = {"file": _read(path)}
    return found


if __name__ == "__main__":
    json.dump(asyncio.run(_main(json.load(sys.stdin))), sys.stdout)
