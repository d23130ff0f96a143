"""Ceph's S3 gateway with a cluster of one process each behind it, all in a folder and in memory.

There is no manager: it keeps figures and offers a dashboard, costs more than all others together,
and no client needs it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path

from services.processes import free_port

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph")


def available() -> bool:
    """Whether this machine has the programs."""
    return all(shutil.which(name) for name in PROGRAMS)


class Gateway:
    """A running gateway.

    Attributes
    ----------
    endpoint, key, secret : for clients.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.key, self.secret = "natmap-key", "natmap-secret"
        self._conf = self.folder / "ceph.conf"
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        mon = f"127.0.0.1:{free_port()}"
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        here = self.folder
        self._conf.write_text(
            f"""[global]
fsid = {fsid}
mon host = v2:{mon}
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
ms_mon_client_mode = crc
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon osd full ratio = .99
run dir = {here}
admin socket = {here}/$name.asok
log file = {here}/$name.log
osd objectstore = memstore
memstore device bytes = 4294967296
osd data = {here}/osd
osd memory target = 939524096
paxos propose interval = 0.05
paxos min wait = 0.01
mon data = {here}/mon
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{self.port}
rgw data = {here}/rgw
rgw dynamic resharding = false
rgw enable usage log = false
"""
        )
        for name in ("osd", "rgw"):
            (here / name).mkdir(exist_ok=True)
        monmap = str(here / "monmap")
        self._call(
            "monmaptool", "--create", "--addv", "a", f"[v2:{mon}]", "--fsid", fsid, monmap,
            "--clobber",
        )  # fmt: skip
        self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._spawn("ceph-mon", "-i", "a")
        self._ceph("osd", "new", osd)
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("ceph-osd", "-i", "0")
        self._spawn("radosgw", "-n", "client.rgw.a")
        self._wait()
        self._call(
            "radosgw-admin", "user", "create", "--uid=natmap", "--display-name=natmap",
            f"--access-key={self.key}", f"--secret-key={self.secret}",
        )  # fmt: skip

    def _wait(self) -> None:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            for process in self.processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args} ended: {self._logs()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"the gateway does not listen: {self._logs()}")

    def _logs(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-600:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    def _call(self, program: str, *words: str) -> str:
        command = [program, *words]
        if program != "monmaptool":
            command += ["-c", str(self._conf)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=90)
        if found.returncode:
            raise RuntimeError(f"{' '.join(command)}: {found.stderr[-800:]}")
        return found.stdout

    def _ceph(self, *words: str) -> str:
        return self._call("ceph", "--connect-timeout", "60", *words)

    def _spawn(self, program: str, *words: str) -> None:
        with (self.folder / f"{program}.out.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [program, "-f", *words, "-c", str(self._conf)], stdout=log, stderr=log
                )
            )

    def environment(self) -> dict[str, str]:
        """What a client's environment needs."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }

    def stop(self) -> None:
        """End all processes. Nothing of them is kept, and some wait long for each other."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
