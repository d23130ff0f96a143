"""Scheduler, workers and driver on four hosts with TLS; links are cut for a minute."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from distributed.security import Security
from services.hosts import PROGRAMS, Hosts, possible
from services.required import need
from support.toys import Toy, blob, read_map

import engine
from engine.clusters.workers import dask_settings
from engine.pipeline.status import read_status
from engine.store.repository import Store
from engine.synthetic.country import AUTUMN, Country
from engine.synthetic.districts import World
from engine.synthetic.make import synthesize

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PORT = 8786
TOY = Toy(blob(), delay=1.6)

DRIVE = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from engine.clusters.opening import open_cluster
from engine.clusters.settings import load_cluster
from engine.runs import events
from engine.runs.execute import Limits, execute
from integration.test_hosts import TOY

def listen(event):
    if isinstance(event, events.TileDone):
        print("tile", flush=True)

if __name__ == "__main__":
    store, schedule = TOY.open(sys.argv[1])
    limits = Limits(commit_tiles=8, commit_seconds=1.0, deaths=8)
    with store.lock(), open_cluster(load_cluster(sys.argv[2])) as cluster:
        summary = execute(schedule, store, cluster, listeners=[listen], limits=limits)
        print("end", summary.done, len(summary.failed), cluster.slots()["cpu"], flush=True)
"""


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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = Hosts(["scheduler", "one", "two", "driver"], folder)
        self.tls = certificates(folder / "tls")
        host = self.hosts.address["scheduler"]
        self.address = f"tls://{host}:{PORT}"
        self.environment = dask_settings() | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        }
        scheduler = ["scheduler", "--host", self.address, "--protocol", "tls", "--no-dashboard"]
        self.keep("scheduler", [*scheduler, *words(self.tls)])
        for name in ("one", "two"):
            self.keep(name, self.worker(name, self.tls))

    def worker(self, name: str, tls: Mapping[str, str]) -> list[str]:
        preload = ["--preload", "engine.pipeline.kernels"]
        told = ["--host", self.hosts.address[name], "--nthreads", "1", "--no-dashboard", *preload]
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

    def drive(self, store: Path, settings: Path) -> subprocess.Popen[bytes]:
        paths = [str(ROOT), str(ROOT / "tests")]
        script = self.folder / "drive.py"
        script.write_text(DRIVE.format(paths=paths))
        command = [sys.executable, "-W", "ignore", str(script), str(store), str(settings)]
        return self.hosts.start("driver", command, self.environment)

    def said(self, word: str) -> int:
        return self.hosts.log("driver").count(word)


def wait(until: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert process.poll() is None, "the driver ended"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.2)


def committed(store: Path) -> int:
    if not Store.exists(store):
        return 0
    return int(read_status(store)["stages"].get("scenes", {}).get("done", 0))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    need(*PROGRAMS)
    if why := possible():
        pytest.skip(why)
    found = Cluster(tmp_path)
    try:
        yield found
    finally:
        found.hosts.stop()


def test_a_worker_that_is_cut_off_for_a_minute_costs_nothing_but_time(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = cluster.drive(tmp_path / "store", cluster.settings("settings", cluster.tls))
    wait(lambda: cluster.said("tile") >= 12, 90, run)
    cluster.hosts.cut("one")
    before = cluster.said("tile")
    time.sleep(60)
    assert cluster.said("tile") > before + 10  # the other one works on
    assert run.poll() is None
    cluster.hosts.mend("one")
    assert run.wait(240) == 0, cluster.hosts.log("driver")[-3000:]
    said = cluster.hosts.log("driver").splitlines()[-1]
    store, schedule = TOY.open(tmp_path / "store")
    assert schedule.open == 0
    done = TOY.open(tmp_path / "other")[1].open
    assert said == f"end {done} 0 2"  # nothing failed, and the worker is back
    np.testing.assert_array_equal(read_map(store), TOY.expected())


def test_a_driver_that_is_cut_off_for_a_minute_goes_on_by_itself(
    cluster: Cluster, tmp_path: Path
) -> None:
    country = tmp_path / "country"
    synthesize(Country(World(5), 3200, 3200, AUTUMN[:3]), country, tile=160)
    recipe = country / "recipe.yaml"
    assert not engine.run(recipe, workers=2, until="composite").failed
    near = engine.open_store(country / "store", decode=False)["composite"]
    far = yaml.safe_load(recipe.read_text()) | {"store": str(tmp_path / "far")}
    (country / "far.yaml").write_text(yaml.safe_dump(far))
    settings = cluster.settings("settings", cluster.tls)
    natmap = [str(Path(sys.executable).with_name("natmap")), "run", str(country / "far.yaml")]
    run = cluster.hosts.start(
        "driver",
        [*natmap, "--until", "composite", "--cluster", str(settings)],
        cluster.environment,
    )
    wait(lambda: committed(tmp_path / "far") >= 2, 120, run)
    cluster.hosts.cut("driver")
    time.sleep(60)
    assert run.poll() is None, cluster.hosts.log("driver")[-3000:]
    cluster.hosts.mend("driver")
    assert run.wait(240) == 0, cluster.hosts.log("driver")[-3000:]
    found = engine.open_store(tmp_path / "far", decode=False)["composite"]
    for name in ("bands", "observations", "reason"):
        np.testing.assert_array_equal(found[name].values, near[name].values)


def test_a_plain_client_and_foreign_certificates_are_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    foreign = certificates(tmp_path / "foreign")
    plain = cluster.address.replace("tls://", "tcp://")
    tries = [("plain", None, {"address": plain}), ("foreign", foreign, {})]
    for number, (name, tls, more) in enumerate(tries, 1):
        run = cluster.drive(tmp_path / f"store-{name}", cluster.settings(name, tls, **more))
        assert run.wait(90) != 0
        assert cluster.said("the scheduler does not answer") == number
    # a foreign worker does not get in beside the two of the house
    cluster.hosts.start(
        "driver",
        [sys.executable, "-m", "dask", *cluster.worker("driver", foreign)],
        cluster.environment,
    )
    time.sleep(8)
    ask = (
        "import json, sys; from distributed import Client; "
        "from distributed.security import Security; tls = json.loads(sys.argv[2]); "
        "client = Client(sys.argv[1], security=Security(require_encryption=True, "
        "tls_ca_file=tls['ca'], tls_client_cert=tls['cert'], tls_client_key=tls['key'])); "
        "print(len(client.scheduler_info(n_workers=-1)['workers']), file=open(sys.argv[3], 'w'))"
    )
    answer = tmp_path / "answer"
    words_ = [sys.executable, "-c", ask, cluster.address, json.dumps(cluster.tls), str(answer)]
    assert cluster.hosts.start("driver", words_).wait(60) == 0
    assert answer.read_text().strip() == "2"
