"""Several hosts on one machine: network namespaces on a bridge, with links that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.processes import end

PROGRAMS = ("ip",)


class Hosts:
    """Hosts with addresses 10.77.N.1, .2, …, in the order of their names.

    Attributes
    ----------
    address : mapping of name to address.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self._tag = f"nm{os.getpid() % 100_000}"
        net = f"10.77.{os.getpid() % 250 + 1}"
        self.address = {name: f"{net}.{number}" for number, name in enumerate(names, 1)}
        try:
            self._ip("link", "add", self._tag, "type", "bridge")
            self._ip("link", "set", self._tag, "up")
            for number, name in enumerate(names):
                space, link = self._space(name), self._link(number)
                self._ip("netns", "add", space)
                self._ip(
                    "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space
                )
                self._ip("link", "set", link, "master", self._tag, "up")
                self._ip("-n", space, "addr", "add", f"{self.address[name]}/24", "dev", "eth0")
                self._ip("-n", space, "link", "set", "eth0", "up")
                self._ip("-n", space, "link", "set", "lo", "up")
        except BaseException:
            self.stop()
            raise

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _link(self, number: int) -> str:
        return f"{self._tag}v{number}"

    def _ip(self, *words: str, check: bool = True) -> None:
        found = subprocess.run([shutil.which("ip") or "ip", *words], capture_output=True, text=True)
        if check and found.returncode:
            raise RuntimeError(f"ip {' '.join(words)}: {found.stderr}")

    def cut(self, name: str) -> None:
        """Nothing passes to or from a host; nobody is told."""
        self._ip("link", "set", self._link(list(self.address).index(name)), "down")

    def mend(self, name: str) -> None:
        """Everything passes again."""
        self._ip("link", "set", self._link(list(self.address).index(name)), "up")

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process on a host; its output goes to ``HOST.log`` in the folder."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._space(name), *command],
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
            )
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        """What the processes of a host said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End all processes and take the network down."""
        for name in self.address:  # also those that the processes started
            pids = subprocess.run(["ip", "netns", "pids", self._space(name)], capture_output=True)
            for pid in pids.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        end(self.processes)
        for number, name in enumerate(self.address):
            self._ip("netns", "del", self._space(name), check=False)
            self._ip("link", "del", self._link(number), check=False)
        self._ip("link", "del", self._tag, check=False)


def possible() -> str:
    """Why there can be no hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"nm-try-{os.getpid()}"
    found = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return found.stderr.strip()
