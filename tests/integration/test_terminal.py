"""Ctrl-C at a terminal reaches all its processes; only the driver may hear it."""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.toys import Toy, square
from typer.testing import CliRunner

from engine.cli.app import app
from engine.runs.execute import Summary

HERE = Path(__file__).resolve()

DRIVER = """
import fcntl, os, sys, termios
from support.toys import Toy, square
from engine.clusters.local import open_local
from engine.runs import events
from engine.runs.execute import Limits, execute
from engine.runs.signals import unwinding

def tell(event):
    if isinstance(event, (events.TileRetried, events.TileFailed, events.WorkersLost)):
        print("lost", event, flush=True)
    if isinstance(event, events.TileDone):
        print("tile", flush=True)

if __name__ == "__main__":
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # its Ctrl-C is for this session
    store, schedule = Toy(square(2), delay=0.1).open(sys.argv[1])
    print("opening", flush=True)
    with unwinding() as done, store.lock(), open_local(2) as cluster:
        summary = execute(schedule, store, cluster, listeners=[tell], limits=Limits(window=2))
        done()
        print("stopped" if summary.stopped else "whole", summary.done, flush=True)
    print("closed", flush=True)
"""


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        (folder / "driver.py").write_text(DRIVER)
        self.screen, other = pty.openpty()
        self._program = subprocess.Popen(
            [sys.executable, str(folder / "driver.py"), *words],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            env={"PYTHONPATH": f"{HERE.parents[1]}:{HERE.parents[2]}", "PATH": "/usr/bin:/bin"},
        )
        os.close(other)
        self.pid, self.said = self._program.pid, ""

    def read(self, until: str, seconds: float = 60) -> None:
        """Read on until a word is there, or the program's end."""
        end = time.monotonic() + seconds
        while until not in self.said and time.monotonic() < end:
            if select.select([self.screen], [], [], 0.2)[0]:
                try:
                    data = os.read(self.screen, 65536)
                except OSError:  # the other end is closed
                    return
                self.said += data.decode()

    def interrupt(self) -> None:
        """What a press of Ctrl-C does."""
        os.write(self.screen, b"\x03")

    def end(self) -> int:
        """Read to the end; the exit code."""
        self.read("\0", 60)
        os.close(self.screen)
        return self._program.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["opening", "whole"])
def test_ctrl_c_is_the_drivers_alone(tmp_path: Path, when: str) -> None:
    """In their first moments, while they work, and when all is done."""
    terminal = Terminal(tmp_path, str(tmp_path / "store"))
    terminal.read(when)
    if when == "opening":
        # the worker's first moments, in which it has no handler of its own
        driver = psutil.Process(terminal.pid)
        while not any("spawn_main" in " ".join(c.cmdline()) for c in driver.children()):
            time.sleep(0.01)
        workers = [c for c in driver.children() if "spawn_main" in " ".join(c.cmdline())]
        for worker in workers:
            worker.send_signal(signal.SIGINT)
        terminal.read("tile")
        assert all(worker.is_running() for worker in workers), terminal.said
    terminal.interrupt()
    assert terminal.end() == 0, terminal.said
    assert "lost" not in terminal.said
    assert "KeyboardInterrupt" not in terminal.said
    assert "Traceback" not in terminal.said
    assert "closed" in terminal.said
    assert ("whole" if when == "whole" else "stopped") in terminal.said
    done = terminal.said.count("tile")
    store, schedule = Toy(square(2)).open(tmp_path / "store")
    assert store.history()
    assert f" {done}\r\n" in terminal.said  # all that came back is committed
    assert (schedule.open == 0) == (when == "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_is_sent_to_the_drivers_group_passes_the_workers_by(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As `timeout` does, shells and batch systems that end a job, and a terminal that is closed."""
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={"PYTHONPATH": f"{HERE.parents[1]}:{HERE.parents[2]}", "PATH": "/usr/bin:/bin"},
    )
    assert driver.stdout is not None
    while "tile" not in driver.stdout.readline():
        assert driver.poll() is None
    os.killpg(driver.pid, number)
    said = driver.communicate(timeout=60)[0]
    assert driver.returncode == 0, said
    assert "stopped" in said
    assert "lost" not in said
    assert "Traceback" not in said
    assert "Warning" not in said


def test_the_advice_how_to_go_on_is_the_command_itself(
    monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any], tmp_path: Path
) -> None:
    import yaml

    path = tmp_path / "a recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    words = ["run", str(path), "--workers", "1", "--until", "composite", "--set", "store=./a b"]
    monkeypatch.setattr(sys, "argv", ["/bin/natmap", *words])
    again = f"cd {shlex.quote(os.getcwd())} && {shlex.join(['natmap', *words])}"
    for end in (
        lambda *_, **__: Summary(3, (), 0, True, 1.0),
        lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt),
    ):
        monkeypatch.setattr("engine.pipeline.verbs.run", end)
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 130
        assert f"To resume: {again}\n" in found.stderr
    monkeypatch.setattr(
        "engine.pipeline.verbs.run",
        lambda *_, **__: Summary(3, (("map", "r0c0", "no"),), 2, False, 1.0),
    )
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 1
    assert f"`{again}` tries again" in found.stderr
