"""A SLURM controller with two emulated nodes on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from services.processes import end, free_port

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "munged", "runuser")


class Slurm:
    """Controller and nodes; clients find them by the environment."""

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder = folder.resolve()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.conf = self.folder / "slurm.conf"
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._munge()
        host = socket.gethostname()
        ports = [free_port() for _ in range(nodes + 1)]
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            "CPUs=2 RealMemory=9000 State=UNKNOWN"
            for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        (self.folder / "state").mkdir()
        self.conf.write_text(
            f"""ClusterName=natmap
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
ReturnToService=0
SlurmdTimeout=20
KillWait=2
SlurmctldPidFile={self.folder}/ctld.pid
SlurmdPidFile={self.folder}/%n.pid
SlurmdSpoolDir={self.folder}/%n
StateSaveLocation={self.folder}/state
SlurmctldLogFile={self.folder}/ctld.log
SlurmdLogFile={self.folder}/%n.log
"""
            + "\n".join(lines)
            + f"\nPartitionName=debug Nodes={','.join(self.nodes)} Default=YES "
            "MaxTime=INFINITE State=UP\n"
        )
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _munge(self) -> None:
        if subprocess.run(["pgrep", "-x", "munged"], capture_output=True).returncode == 0:
            return
        for name in ("/run/munge", "/var/lib/munge", "/var/log/munge"):
            subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "-m", "0755", name])
        if not Path("/etc/munge/munge.key").exists():
            subprocess.run(["runuser", "-u", "munge", "--", "mungekey"], check=True)
        subprocess.run(["runuser", "-u", "munge", "--", shutil.which("munged") or "munged"])

    def _start(self) -> None:
        self._spawn("slurmctld", "-D", "-c", "-f", str(self.conf))
        for name in self.nodes:
            (self.folder / name).mkdir()
            self._spawn("slurmd", "-D", "-N", name, "-f", str(self.conf))
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = self.call("sinfo", "-h", "-N", "-o", "%N %T", check=False)
            if found.split().count("idle") == len(self.nodes):
                return
            time.sleep(0.3)
        raise RuntimeError(f"the nodes are not idle: {found}\n{self._logs()}")

    def _logs(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    def _spawn(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=self.environment())
            )

    def environment(self) -> dict[str, str]:
        """What clients need."""
        return {**os.environ, "SLURM_CONF": str(self.conf), "USER": "root"}

    def call(self, *command: str, check: bool = True) -> str:
        """One of SLURM's commands."""
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=self.environment()
        )
        if check and found.returncode:
            raise RuntimeError(f"{' '.join(command)}: {found.stderr}")
        return found.stdout

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        if self.processes:
            subprocess.run(
                ["scancel", "--user=root"], capture_output=True, env=self.environment(), timeout=30
            )
            time.sleep(1)
        end(self.processes)
