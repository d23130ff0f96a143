"""A STAC API as catalogues run it: stac-fastapi over pgstac in PostgreSQL with PostGIS."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from services.processes import end, free_port

SERVERS = Path(__file__).resolve().parents[2] / ".servers" / "bin"
"""Programs of Python packages that `make services` installs apart from natmap's own."""


def _own(program: str) -> str:
    """A program of PostgreSQL's; Debian keeps those of a server off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return str(found[-1]) if found else program


PROGRAMS = (
    _own("postgres"),
    _own("initdb"),
    "psql",
    "runuser",
    str(SERVERS / "pypgstac"),
    str(SERVERS / "uvicorn"),
)


class Catalogue:
    """A running API.

    Attributes
    ----------
    url : str
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.port, web = free_port(), free_port()
        self.url = f"http://127.0.0.1:{web}"
        self._environment = os.environ | {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGDATABASE": "stac",
            "PGPASSWORD": "none",
        }
        try:
            self._start_database()
            self._call("pypgstac", "migrate")
            self._spawn(
                str(SERVERS / "uvicorn"), "--factory", "stac_fastapi.pgstac.app:create_app",
                "--host", "127.0.0.1", "--port", str(web),
            )  # fmt: skip
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _start_database(self) -> None:
        # PostgreSQL refuses to run as root, and its user must reach the folder
        data, user = self.folder / "data", pwd.getpwnam("postgres")
        data.mkdir(parents=True)
        os.chown(data, user.pw_uid, user.pw_gid)
        for above in (self.folder, *self.folder.parents):
            if above.stat().st_uid == os.getuid() and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o001)
        as_user = ["runuser", "-u", "postgres", "--"]
        initdb = [_own("initdb"), "-D", str(data), "--auth=trust", "--no-sync", "-E", "UTF8"]
        self._run([*as_user, *initdb])
        self._spawn(
            *as_user, _own("postgres"), "-D", str(data), "-p", str(self.port),
            "-k", str(data), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
        )  # fmt: skip
        until = time.monotonic() + 60
        while True:
            try:
                self._psql("postgres", "create database stac")
                return
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.3)

    def _psql(self, database: str, command: str) -> None:
        self._run(["psql", "-d", database, "-c", command])

    def _wait(self) -> None:
        until = time.monotonic() + 60
        while True:
            try:
                with urlopen(self.url, timeout=5):
                    return
            except OSError:
                if time.monotonic() > until:
                    raise RuntimeError((self.folder / "servers.log").read_text()) from None
                time.sleep(0.3)

    def load(self, collection: dict[str, Any], items: Iterable[dict[str, Any]]) -> None:
        """Put a collection and its items into the database."""
        for kind, values in (("collections", [collection]), ("items", items)):
            path = self.folder / f"{kind}.ndjson"
            path.write_text("".join(json.dumps(value) + "\n" for value in values))
            self._call("pypgstac", "load", kind, str(path), "--method", "upsert")

    def _call(self, program: str, *words: str) -> None:
        self._run([str(SERVERS / program), *words])

    def _run(self, command: list[str]) -> None:
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=self._environment, cwd="/"
        )
        if found.returncode:
            raise RuntimeError(f"{' '.join(command)}: {found.stderr[-800:]}")

    def _spawn(self, *command: str) -> None:
        with (self.folder / "servers.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=self._environment, cwd="/")
            )

    def stop(self) -> None:
        """End API and database."""
        end(self.processes)
