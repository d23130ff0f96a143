"""Workers over SSH on two other hosts, each with a server of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from services.hosts import PROGRAMS, Hosts, possible
from services.required import need
from support.near import copied, near

import engine

pytestmark = pytest.mark.slow


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Three hosts; ``one`` and ``two`` let the user in whose home is ``home``."""
    need(*PROGRAMS, "sshd", "ssh-keygen")
    if why := possible():
        pytest.skip(why)
    keys = tmp_path / "home" / ".ssh"
    keys.mkdir(parents=True, mode=0o700)
    for name in (keys / "id_ed25519", tmp_path / "host_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(name)]
        subprocess.run(command, check=True)
    (tmp_path / "authorized").write_text((keys / "id_ed25519.pub").read_text())
    Path("/run/sshd").mkdir(exist_ok=True)
    found = Hosts(["driver", "one", "two"], tmp_path)
    try:
        public = " ".join((tmp_path / "host_key.pub").read_text().split()[:2])
        known = [f"{found.address[name]} {public}" for name in ("one", "two")]
        (keys / "known_hosts").write_text("\n".join(known) + "\n")
        (tmp_path / "sshd_config").write_text(
            f"HostKey {tmp_path}/host_key\nAuthorizedKeysFile {tmp_path}/authorized\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            "PidFile none\n"
        )
        for name in ("one", "two"):
            config = str(tmp_path / "sshd_config")
            found.start(name, ["/usr/sbin/sshd", "-D", "-e", "-f", config])
        until = time.monotonic() + 20
        while not all("Server listening" in found.log(name) for name in ("one", "two")):
            assert time.monotonic() < until, "no server of SSH"
            time.sleep(0.1)
        yield found
    finally:
        found.stop()


@pytest.mark.parametrize("tls", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_a_run_over_ssh_is_the_local_one(hosts: Hosts, tmp_path: Path, tls: bool) -> None:
    recipe = copied(tmp_path / "country", tmp_path / "far")
    (tmp_path / "shared").mkdir()
    group = {"cores": 1, "memory": "4GB", "workers": 1}
    settings = {
        "kind": "ssh",
        "host": hosts.address["driver"],
        "port": 8786,
        "tls": tls,
        "folder": str(tmp_path / "shared"),
        "groups": [
            {"name": "readers", "hosts": [hosts.address["one"]], **group},
            {"name": "others", "hosts": [hosts.address["two"]], **group},
        ],
    }
    (tmp_path / "ssh.yaml").write_text(yaml.safe_dump(settings))
    natmap = str(Path(sys.executable).with_name("natmap"))
    words = ["run", str(recipe), "--until", "composite"]
    run = hosts.start(
        "driver",
        [natmap, *words, "--cluster", str(tmp_path / "ssh.yaml")],
        {"HOME": str(tmp_path / "home")},
    )
    assert run.wait(180) == 0, hosts.log("driver")[-4000:]
    there = engine.open_store(near() / "store", decode=False)["composite"]
    found = engine.open_store(tmp_path / "far", decode=False)["composite"]
    for name in ("bands", "observations", "reason"):
        np.testing.assert_array_equal(found[name].values, there[name].values)
    for name in ("one", "two"):
        assert "Accepted publickey" in hosts.log(name)
