"""Calls of the command that are killed at a chosen moment, each forked from one that has imported.

Importing costs seconds; a fork costs nothing. The moments are writes that Python sees (a file is
opened to be written, renamed, removed, a folder is made), which no load of the machine moves, or
seconds, which fall between writes of other languages too.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
STARTING = "(workers are starting)"
"""A moment to press Ctrl-C at: before they have said anything."""
_WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}


@dataclass(frozen=True)
class Ended:
    """How a call ended: exit code (-9: killed), its seconds, its writes (-1: killed), its words."""

    code: int
    seconds: float
    writes: int
    said: str


class Forks:
    """A process from which calls are forked; use it as a context."""

    def __init__(self, temporary: Path, **environment: str) -> None:
        temporary.mkdir(parents=True, exist_ok=True)
        self.temporary = temporary
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}",
            "TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1",
            **environment,
        }

    def __enter__(self) -> Forks:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def call(self, folder: Path, words: str | Sequence[str], **kill: Any) -> Ended:
        """Run ``natmap WORDS`` in a folder.

        Parameters
        ----------
        kill : ``write=n``, ``after=seconds``, or nothing; ``group=False``: the driver alone.
            ``press=word``: at a terminal Ctrl-C when a word is shown there, or after seconds; a
            list: one for each.
        """
        asked = {"words": _split(words), "folder": str(folder), "kill": kill}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


def _split(words: str | Sequence[str]) -> list[str]:
    return words.split() if isinstance(words, str) else list(words)


# -- in the process that forks ----------------------------------------------------------------


def _serve() -> None:
    import engine.catalog.ingest
    import engine.compare.evaluate
    import engine.pipeline.prune
    import engine.pipeline.publish
    import engine.training.train  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        told, tell = os.pipe()
        log = Path(asked["folder"]) / ".said"
        began = time.monotonic()
        keys = asked["kill"].get("press")
        screen, slave = (-1, -1) if keys is None else pty.openpty()
        child = os.fork()
        if not child:
            os.close(told)
            _be(asked, slave, log, tell)
            return
        os.close(tell)
        if keys is not None:
            os.close(slave)
            log.write_text(_press(child, screen, keys))
        elif (after := asked["kill"].get("after")) is not None:
            os.setpgid(child, child)
            time.sleep(after)
            group = asked["kill"].get("group", True)
            (os.killpg if group else os.kill)(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - began
        with os.fdopen(told) as pipe:
            writes = int(pipe.read() or -1)
        ended = Ended(code, seconds, writes, log.read_text())
        log.unlink()
        sys.stdout.write(json.dumps(vars(ended)) + "\n")
        sys.stdout.flush()


def _press(child: int, screen: int, words: Sequence[str | float]) -> str:
    """Press Ctrl-C at words or seconds, and read to the end; what was shown."""
    shown, waiting, began = "", list(words), time.monotonic()

    def is_time(moment: str | float) -> bool:
        if isinstance(moment, str):
            return _starting(child) if moment == STARTING else moment in shown
        return time.monotonic() - began > moment

    while True:
        if select.select([screen], [], [], 0.02)[0]:
            try:
                shown += os.read(screen, 65536).decode("utf-8", "replace")
            except OSError:  # the other end is closed
                os.close(screen)
                return shown
        if waiting and is_time(waiting[0]):
            os.write(screen, b"\x03")
            waiting.pop(0)


def _starting(driver: int) -> bool:
    """Whether a driver has begun to start its workers."""
    with suppress(psutil.Error):
        children = psutil.Process(driver).children()
        return any("spawn_main" in " ".join(child.cmdline()) for child in children)
    return False


def _be(asked: Mapping[str, Any], terminal: int, log: Path, tell: int) -> None:
    """Be the call, in the child; the interpreter ends as that of the command does."""
    if terminal >= 0:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        streams = [terminal] * 3
        os.environ |= {"TERM": "xterm", "COLUMNS": "300"}
    else:
        os.setpgid(0, 0)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        streams = [os.open(os.devnull, os.O_RDONLY), file, file]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    # those of before may have been files, and would look for their place in a terminal
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, closefd=False)  # noqa: SIM115 (for as long as the process lives)
        for number, mode in enumerate("rww")
    )
    os.chdir(asked["folder"])
    writes, last = 0, asked["kill"].get("write", -1)

    def look(event: str, args: tuple[Any, ...]) -> None:
        nonlocal writes
        if event in _WRITES or (event == "open" and _to_write(args[2])):
            writes += 1
            if writes == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    atexit.register(lambda: os.write(tell, str(writes).encode()))
    sys.argv = ["natmap", *asked["words"]]
    from engine.cli.app import main

    main()


def _to_write(flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


if __name__ == "__main__":
    _serve()
