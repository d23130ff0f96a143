"""Secrets that a run needs are in nothing that it leaves, says or starts.

A server demands them, so that they are used: name, password and a token for the catalogue, other
ones (from ~/.netrc) for the images. Links carry signatures on top. What is looked at: each byte of
each file that natmap writes, inside of compressed chunks, Parquet and archives too, what it prints,
and command lines and environments of the processes that it starts.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zarr
from support.worlds import SMALL, synthesize

from engine.store.provenance import read_items
from engine.store.repository import Store

SECRETS = {
    "password": "pa55-Canary+A1/x",
    "token": "t0k3n-Canary_B2~x",
    "signature": "s1g-Canary%2BC3x",
    "netrc": "n3trc-Canary-D4x",
    "environment": "env-Canary-E5+x/",
}
ROOT = Path(__file__).resolve().parents[2]


class Guarded(SimpleHTTPRequestHandler):
    """Gives files, or parts of them, to those who know the secrets."""

    protocol_version = "HTTP/1.1"
    served: dict[str, int]
    closed = False

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        image = path.endswith(".tif")
        known = ("reader", SECRETS["netrc"]) if image else ("me", SECRETS["password"])
        want = "Basic " + base64.b64encode(":".join(known).encode()).decode()
        right = self.headers.get("Authorization") == want
        right &= image or f"token={SECRETS['token']}" in query
        file = Path(self.translate_path(path))
        if not right or self.closed or not file.is_file():
            code, body = (404 if right and not self.closed else 401), b"no"
        else:
            kind = "image" if image else "document"
            self.served[kind] = self.served.get(kind, 0) + 1
            code, body = 200, file.read_bytes()
        self.send_response(206 if code == 200 and "Range" in self.headers else code)
        if code == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="scenes"')
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if code == 200 and part:
            first, last = int(part[1]), min(int(part[2] or len(body)), len(body) - 1)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[Guarded]]]:
    handler = type("Here", (Guarded,), {"served": {}})
    make: Any = partial(handler, directory=str(tmp_path / "country" / "scenes"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), make)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


def forms() -> dict[bytes, str]:
    """The secrets as they are, in a URL, and in base64 wherever they may begin in its groups."""
    found: dict[bytes, str] = {}
    for name, secret in SECRETS.items():
        found[secret.encode()] = name
        found[quote(secret, safe="").encode()] = f"{name}, quoted"
        for before in range(3):
            text = base64.b64encode(b"x" * before + secret.encode())
            found[text[4 * bool(before) : -4]] = f"{name}, base64"
    return found


FORMS = forms()


def secrets_in(data: bytes) -> set[str]:
    return {name for form, name in FORMS.items() if form in data}


def unpacked(data: bytes, depth: int = 3) -> Iterator[bytes]:
    """Bytes, and what is packed in them: zstd and gzip wherever they begin, ZIP, Parquet."""
    yield data
    if not depth:
        return
    for magic, codec in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x8b\x08", "gzip")):
        for found in re.finditer(re.escape(magic), data):
            inner = b"".join(_stream(data[found.start() :], codec))
            if inner:
                yield from unpacked(inner, depth - 1)
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from unpacked(archive.read(name), depth - 1)
    end = data.rfind(b"PAR1")
    if data[:4] == b"PAR1" and end:
        data = data[: end + 4]  # a chunk of the table of runs is filled up
        yield json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=str).encode()


def _stream(data: bytes, codec: str) -> Iterator[bytes]:
    """What is packed, up to where it ends or is something else."""
    with contextlib.suppress(OSError, pa.ArrowException):
        stream = pa.CompressedInputStream(pa.BufferReader(data), codec)
        while piece := stream.read(4096):
            yield piece


class Watch(threading.Thread):
    """Looks at command lines and environments of all that a process starts, while it lives."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self.seen: set[int] = set()
        self.found: set[str] = set()

    def run(self) -> None:
        while self._process.poll() is None:
            try:
                children = psutil.Process(self._process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                break
            for child in children:
                self.look(child.pid)
            time.sleep(0.05)

    def look(self, pid: int) -> None:
        for name in ("cmdline", "environ"):
            try:
                data = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
            self.seen.add(pid)
            # A worker may have the environment of its driver, where credentials of object storage
            # are: that is how they are meant to reach it. Nothing else may be in it.
            allowed = {"environment"} if name == "environ" else set()
            self.found |= {f"{name}: {s}" for s in secrets_in(data) if s not in allowed}


@pytest.mark.slow
def test_no_secret_is_in_what_is_written_said_or_started(
    tmp_path: Path, server: tuple[str, type[Guarded]]
) -> None:
    host, handler = server
    country, work = tmp_path / "country", tmp_path / "work"
    recipe = yaml.safe_load(synthesize(SMALL, country, model="lcz-made-up", tile=160).read_text())
    for path in (country / "scenes").glob("*.json"):
        document = json.loads(path.read_text())
        for link in document.get("links", []):
            if link["rel"] == "item":
                link["href"] += f"?token={SECRETS['token']}&sig={SECRETS['signature']}"
        for asset in document.get("assets", {}).values():
            asset["href"] += f"?sig={SECRETS['signature']}&X-Amz-Signature={SECRETS['signature']}"
        path.write_text(json.dumps(document))
    login = f"me:{quote(SECRETS['password'], safe='')}@{host}"
    catalog = f"http://{login}/catalog.json?token={SECRETS['token']}"
    recipe["imagery"]["catalog"] = catalog
    recipe["area"] = {"file": str(next((country / "truth").glob("area*")))}
    (work / "tmp").mkdir(parents=True)
    home = tmp_path / "home"
    home.mkdir()
    name = host.partition(":")[0]
    (home / ".netrc").write_text(f"machine {name} login reader password {SECRETS['netrc']}\n")
    (home / ".netrc").chmod(0o600)
    (country / "recipe.yaml").write_text(
        yaml.safe_dump({**recipe, "store": str(work / "store"), "publish": str(work / "product")})
    )
    wrong = {
        **recipe,
        "imagery": {**recipe["imagery"], "catalog": catalog.replace("catalog.json", "none.json")},
    }
    wrong |= {"store": str(work / "none"), "publish": str(work / "nothing")}
    (country / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    env = {
        **os.environ,
        "HOME": str(home),
        "TMPDIR": str(work / "tmp"),
        "PYTHONPATH": str(ROOT),
        "AWS_SECRET_ACCESS_KEY": SECRETS["environment"],
        "NATMAP_SECRET_TOKEN": SECRETS["environment"],
    }
    ended: dict[str, int] = {}
    started: set[int] = set()

    def natmap(*words: str) -> None:
        """Run a verb, and look at all that it says and starts."""
        line = [sys.executable, "-c", "from engine.cli.app import main; main()", *words]
        process = subprocess.Popen(
            line, env=env, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        watch = Watch(process)
        watch.start()
        said = process.communicate(timeout=500)[0]
        watch.join()
        started.update(watch.seen)
        ended[words[0]] = process.returncode
        (work / f"{'-'.join(words[:1])}-{len(ended)}.said").write_bytes(said)
        assert not secrets_in(said), (words, said)
        assert not watch.found, (words, watch.found)
        assert process.returncode in (0, 1, 2), said.decode()[-3000:]

    sound = str(country / "recipe.yaml")
    natmap("plan", sound)
    natmap("doctor", sound)
    natmap("plan", str(country / "wrong.yaml"))
    assert ended == {"plan": 2, "doctor": ended["doctor"]}
    natmap("run", sound, "--workers", "1")
    assert ended["run"] == 0, (work / "run-3.said").read_text()[-3000:]
    assert handler.served["image"] > 5
    for words in (
        ("publish", sound),
        ("status", str(work / "store")),
        ("verify", str(work / "store")),
    ):
        natmap(*words)
        assert ended[words[0]] == 0
    # images that are refused, with new items: the run says what failed
    item = next(p for p in (country / "scenes").glob("*.json") if p.name != "catalog.json")
    item.write_text(item.read_text().replace('"eo:cloud_cover": ', '"eo:cloud_cover": 0'))
    (home / ".netrc").write_text(f"machine {name} login reader password {SECRETS['netrc']}no\n")
    natmap("run", sound, "--set", "cube.cloud_dilation=120", "--workers", "1")
    assert started
    found = {}
    for path in sorted(p for p in work.rglob("*") if p.is_file()):
        inside: set[str] = set()
        for data in unpacked(path.read_bytes()):
            inside |= secrets_in(data)
        if inside:
            found[str(path.relative_to(work))] = inside
    assert not found
    root: Any = zarr.open_group(Store.open(work / "store").reader().store, mode="r")
    for name in root["runs"].array_keys():
        for data in unpacked(read_items(root, name)):
            assert not secrets_in(data), name
    said = json.dumps({name: dict(node.attrs) for name, node in root.members(None)})
    assert host in said  # the address is kept, so that this looked at the right thing
    assert not secrets_in(said.encode())
