"""A driver that is asked to end, as a process of its own: what Kubernetes and SLURM do to one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.shared import workers
from support.toys import Toy, read_map, square

from engine.runs.execute import execute

HERE = Path(__file__).resolve()

DRIVER = """
import sys
from support.toys import Toy, square
from engine.clusters.local import open_local
from engine.runs.events import TileDone
from engine.runs.execute import Limits, execute
from engine.runs.signals import unwinding

def tell(event):
    if isinstance(event, TileDone):
        print(event.stage, event.tile, flush=True)

if __name__ == "__main__":
    store, schedule = Toy(square(1), delay=0.1).open(sys.argv[1])
    with unwinding(), store.lock(), open_local(1) as cluster:
        print("open", flush=True)
        if sys.argv[2] == "wait":
            import time
            time.sleep(60)
        summary = execute(schedule, store, cluster, listeners=[tell], limits=Limits(window=2))
        print("stopped" if summary.stopped else "whole", summary.done, flush=True)
        if sys.argv[2] == "stay":
            import time
            time.sleep(60)
"""


def start(folder: Path, how: str) -> subprocess.Popen[str]:
    script = folder / "driver.py"
    script.write_text(DRIVER)
    (folder / "temporary").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(script), str(folder / "store"), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={
            "PYTHONPATH": f"{HERE.parents[1]}:{HERE.parents[2]}",
            "PATH": "/usr/bin:/bin",
            "TMPDIR": str(folder / "temporary"),
        },
    )


def end(driver: subprocess.Popen[str], number: int) -> tuple[str, str, list[psutil.Process]]:
    """Signal the driver alone; what it says from then on, and those of its workers left over."""
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    out, err = driver.communicate(timeout=60)
    return out, err, psutil.wait_procs(children, timeout=5)[1]


@pytest.mark.slow
def test_a_signal_drains_and_another_gives_the_workers_back(tmp_path: Path) -> None:
    """SIGTERM in a run, and again after it, while the workers are still open; the next run does
    the rest. SIGINT in this process: test_execution.py."""
    driver = start(tmp_path, "stay")
    assert driver.stdout is not None
    lines = [driver.stdout.readline() for _ in range(6)]
    assert lines[0] == "open\n", driver.communicate()
    driver.send_signal(signal.SIGTERM)
    while lines[-1].startswith(("open", "scenes", "composite", "map")):
        lines.append(driver.stdout.readline())
    assert lines[-1] == f"stopped {len(lines) - 2}\n"  # all that came back is committed
    time.sleep(0.2)
    _, err, left = end(driver, signal.SIGTERM)
    assert driver.returncode != 0
    assert "KeyboardInterrupt" in err
    assert not left
    do_the_rest(tmp_path)


def do_the_rest(folder: Path) -> None:
    toy = Toy(square(1))
    store, schedule = toy.open(folder / "store")
    whole = schedule.open
    with store.lock():
        assert execute(schedule, store, workers()).done == whole
    assert (read_map(store) == toy.expected()).all()


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_next_run_does_the_rest(tmp_path: Path, number: int) -> None:
    driver = start(tmp_path, "run")
    assert driver.stdout is not None
    lines = [driver.stdout.readline() for _ in range(6)]
    assert lines[0] == "open\n", driver.communicate()
    out, err, left = end(driver, number)
    assert driver.returncode == 0, err
    *more, last = out.splitlines()
    done = len(lines) - 1 + len(more)
    assert last == f"stopped {done}"
    assert not left
    do_the_rest(tmp_path)


@pytest.mark.slow
@pytest.mark.soak
def test_before_a_run_a_signal_gives_the_workers_back(tmp_path: Path) -> None:
    driver = start(tmp_path, "wait")
    assert driver.stdout is not None
    assert driver.stdout.readline() == "open\n"
    time.sleep(0.2)
    _, err, left = end(driver, signal.SIGTERM)
    assert driver.returncode != 0
    assert "KeyboardInterrupt" in err
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", pytest.param("group", marks=pytest.mark.soak)])
def test_a_killed_run_leaves_nothing(tmp_path: Path, victim: str) -> None:
    """Kill -9 of a driver, or of its whole group: its workers end by themselves, and the next run
    sweeps what it left for scratch."""
    driver = start(tmp_path, "run")
    assert driver.stdout is not None
    lines = [driver.stdout.readline() for _ in range(6)]
    assert lines[0] == "open\n", driver.communicate()
    family = psutil.Process(driver.pid).children(recursive=True)
    if victim == "group":
        os.killpg(driver.pid, signal.SIGKILL)
    else:
        driver.kill()
    driver.communicate()
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert any((tmp_path / "temporary").iterdir())
    driver = start(tmp_path, "run")
    out, err = driver.communicate(timeout=120)
    assert out.splitlines()[-1].startswith("whole"), err
    assert not any((tmp_path / "temporary").iterdir())
    store, schedule = Toy(square(1)).open(tmp_path / "store")
    assert not schedule.open
    assert (read_map(store) == Toy(square(1)).expected()).all()
