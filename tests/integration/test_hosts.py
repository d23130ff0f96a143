"""Scheduler, workers and driver on four hosts with TLS; links are cut for longer than time-outs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from distributed.security import Security
from services.hosts import PROGRAMS, Hosts, possible
from services.processes import end
from services.required import need
from support.near import copied, near
from support.toys import Toy, blob, read_map

import engine
from engine.clusters.workers import dask_settings

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PORT = 8786


@dataclass(frozen=True)
class Pace:
    """Seconds."""

    silent: int  # after which a connection is given up
    again: int  # that a client tries to come back
    cut: int  # that a link is cut for at least: it must be given up too
    tile: float  # that each takes, so that the cut ends before the run


QUICK = Pace(12, 6, 0, 0.5)  # Dask fails on less than 11
DEFAULT = Pace(30, 30, 60, 1.6)

BEGIN = """
import sys
sys.path[:0] = {paths!r}
import engine.clusters.existing as existing
existing._PATIENCE = {again}
from engine.clusters.connect import open_cluster
from engine.clusters.settings import load_cluster
from engine.runs import events
from engine.runs.execute import Limits, execute

def listen(event):
    if isinstance(event, events.TileDone):
        print("tile", flush=True)
"""

CLIENTS = (
    BEGIN
    + """
from engine.errors import RunError

for path in sys.argv[1:3]:
    try:
        with open_cluster(load_cluster(path)):
            sys.exit(path + " was let in")
    except RunError as error:
        print(error, flush=True)
"""
)

TOYS = (
    BEGIN
    + """
from support.toys import Toy, blob

store, schedule = Toy(blob(0.9), delay=float(sys.argv[3])).open(sys.argv[1])
limits = Limits(commit_tiles=8, commit_seconds=1.0, deaths=8)
with store.lock(), open_cluster(load_cluster(sys.argv[2])) as cluster:
    summary = execute(schedule, store, cluster, listeners=[listen], limits=limits)
    print("end", summary.done, len(summary.failed), cluster.slots()["cpu"], flush=True)
"""
)

RECIPE = (
    BEGIN
    + """
import engine
import engine.pipeline.verbs as verbs

def opened(*words, again=False, **more):
    print("again" if again else "first", flush=True)
    return open_cluster(*words, again=again, **more)

verbs.open_cluster = opened
limits = Limits(commit_tiles=1, commit_seconds=0.2)
told = dict(until="composite", listeners=[listen], limits=limits)
assert not engine.run(sys.argv[1], cluster=sys.argv[2], **told).failed
"""
)


def certificates(folder: Path) -> dict[str, str]:
    """A CA that is its own certificate, as files."""
    folder.mkdir()
    made = Security.temporary()
    texts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, text in texts.items():
        (folder / f"{name}.pem").write_text(str(text))
    return {name: str(folder / f"{name}.pem") for name in texts}


def words(tls: Mapping[str, str]) -> list[str]:
    return ["--tls-ca-file", tls["ca"], "--tls-cert", tls["cert"], "--tls-key", tls["key"]]


class Cluster:
    """A scheduler and two workers on three hosts, each started again when it ends."""

    def __init__(self, folder: Path, pace: Pace) -> None:
        self.folder, self.pace = folder, pace
        self.hosts = Hosts(["scheduler", "one", "two", "driver"], folder)
        self.tls = certificates(folder / "tls")
        host = self.hosts.address["scheduler"]
        self.address = f"tls://{host}:{PORT}"
        self.environment = dask_settings() | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{pace.silent}s",
        }
        scheduler = ["scheduler", "--host", self.address, "--protocol", "tls", "--no-dashboard"]
        self.keep("scheduler", [*scheduler, *words(self.tls)])
        for name in ("one", "two"):
            self.keep(name, self.worker(name, self.tls))
        wait(lambda: self.heard("Register worker") == 2, 60)

    def worker(self, name: str, tls: Mapping[str, str]) -> list[str]:
        told = ["--host", self.hosts.address[name], "--nthreads", "1", "--no-dashboard"]
        told.append("--no-nanny")  # `keep` starts it again
        return ["worker", self.address, *told, "--memory-limit", "4GB", *words(tls)]

    def keep(self, name: str, command: list[str]) -> None:
        """As systemd would."""
        text = shlex.join([sys.executable, "-W", "ignore", "-m", "dask", *command])
        loop = ["sh", "-c", f"while :; do {text}; sleep 1; done"]
        self.hosts.start(name, loop, self.environment)

    def settings(self, name: str, tls: Mapping[str, str] | None, **more: object) -> Path:
        told: dict[str, object] = {"kind": "address", "address": self.address}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(told | ({"tls": dict(tls)} if tls else {}) | more))
        return path

    def drive(
        self, text: str, what: Path, settings: Path, again: int = 0
    ) -> subprocess.Popen[bytes]:
        """A driver, its own log from here on."""
        (self.folder / "driver.log").write_bytes(b"")
        paths = [str(ROOT), str(ROOT / "tests")]
        text = text.format(paths=paths, again=again or self.pace.again)
        command = [sys.executable, "-W", "ignore", "-c", text, str(what), str(settings)]
        command.append(str(self.pace.tile))
        return self.hosts.start("driver", command, self.environment)

    def said(self, word: str) -> int:
        return self.hosts.log("driver").count(word)

    def heard(self, word: str) -> int:
        return self.hosts.log("scheduler").count(word)

    def cut(self, name: str, lost: Callable[[], bool], run: subprocess.Popen[bytes]) -> None:
        """Cut a host off until it has been given up."""
        began = time.monotonic()
        self.hosts.cut(name)
        wait(lambda: lost() and time.monotonic() > began + self.pace.cut, 150, run)
        self.hosts.mend(name)


def wait(
    until: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes] | None = None
) -> None:
    latest = time.monotonic() + seconds
    while not until():
        assert process is None or process.poll() is None, "the driver ended"
        assert time.monotonic() < latest, "it takes too long"
        time.sleep(0.2)


@pytest.fixture(
    scope="module",
    params=[QUICK, pytest.param(DEFAULT, marks=pytest.mark.soak)],
    ids=["quick", "default"],
)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    need(*PROGRAMS)
    if why := possible():
        pytest.skip(why)
    found = Cluster(tmp_path_factory.mktemp("hosts"), request.param)
    try:
        yield found
    finally:
        found.hosts.stop()


def test_a_plain_client_and_foreign_certificates_are_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    foreign = certificates(tmp_path / "foreign")
    plain = cluster.settings("plain", None, address=cluster.address.replace("tls://", "tcp://"))
    run = cluster.drive(CLIENTS, plain, cluster.settings("foreign", foreign), again=2)
    assert run.wait(90) == 0, cluster.hosts.log("driver")[-3000:]
    assert cluster.said("the scheduler does not answer") == 2
    # a foreign worker does not get in beside the two of the house
    before = cluster.heard("TLS handshake failed")
    command = [sys.executable, "-m", "dask", *cluster.worker("driver", foreign)]
    worker = cluster.hosts.start("driver", command, cluster.environment)
    try:
        wait(lambda: cluster.heard("TLS handshake failed") > before + 2, 60, worker)
    finally:
        end([worker])
    assert cluster.heard("Register worker") == 2


def test_a_worker_that_is_cut_off_costs_nothing_but_time(cluster: Cluster, tmp_path: Path) -> None:
    toy = Toy(blob(0.9))
    run = cluster.drive(TOYS, tmp_path / "store", cluster.settings("settings", cluster.tls))
    wait(lambda: cluster.said("tile") >= 6, 90, run)
    before, lost = cluster.said("tile"), cluster.heard("Remove worker")
    cluster.cut("one", lambda: cluster.heard("Remove worker") > lost, run)
    assert cluster.said("tile") > before + 10  # the other one works on
    assert run.wait(240) == 0, cluster.hosts.log("driver")[-3000:]
    said = cluster.hosts.log("driver").splitlines()[-1]
    store, schedule = toy.open(tmp_path / "store")
    assert schedule.open == 0
    done = toy.open(tmp_path / "other")[1].open
    assert said == f"end {done} 0 2"  # nothing failed, and the worker is back
    np.testing.assert_array_equal(read_map(store), toy.expected())


@pytest.mark.soak
def test_a_driver_that_is_cut_off_goes_on_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    recipe = copied(tmp_path / "country", tmp_path / "far")
    run = cluster.drive(RECIPE, recipe, cluster.settings("settings", cluster.tls))
    wait(lambda: cluster.said("tile") >= 2, 120, run)
    # until its client has ended, and it looks for a new one
    cluster.cut("driver", lambda: cluster.said("again") > 0, run)
    assert run.wait(240) == 0, cluster.hosts.log("driver")[-3000:]
    there = engine.open_store(near() / "store", decode=False)["composite"]
    found = engine.open_store(tmp_path / "far", decode=False)["composite"]
    for name in ("bands", "observations", "reason"):
        np.testing.assert_array_equal(found[name].values, there[name].values)
