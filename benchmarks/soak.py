"""Every law at its full size: one command that resumes where it was stopped.

    python benchmarks/soak.py      (hours; `make soak`)
    python benchmarks/soak.py --list

A law is a file of tests, of which it runs those that are marked ``soak`` (a new one is found by
its mark), or a row of `FIGURES`: a benchmark. Each ends within an hour, or fails. What passed is
not run again unless asked for, as long as the engine, the law's own file and what they share are
those that it passed with; what failed is, after the rest. A law that fails does not stop the
others; the command then ends with 1.

The log is the state. It has a line for each law: name, commit, start, minutes, outcome, and what it
said: lines of its output that begin with ``figures:``, and the last one. All output is in the work
folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import psutil

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "benchmarks" / "soak.log"
CODE = ("engine", "benchmarks/*.py", "tests/services", "tests/support", "*.toml", "*.txt")
"""What every law depends on, beside its own file."""
HOUR = 3600.0
PYTHON = (sys.executable, "-W", "ignore")
PYTEST = (
    *(sys.executable, "-m", "pytest", "-n", "0", "-m", "soak", "-s"),
    *("-o", f"timeout={HOUR:.0f}", "-o", "tmp_path_retention_policy=failed"),
)


@dataclass(frozen=True)
class Law:
    """What must hold at full size.

    Attributes
    ----------
    name : of the law; a file of tests has its path.
    commands : run one after another in the repository, up to the first that fails.
    minutes : that it takes on two cores, about; None where only a run will tell.
    says : a pattern that a line of it must match, and that this line is kept by.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    minutes: float | None = None
    says: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a law did, the last time that it was run."""

    law: str
    commit: str
    started: str
    minutes: float
    outcome: str  # passed | failed
    said: str


def benchmark(name: str, minutes: float, *words: str) -> Law:
    return Law(name, ((*PYTHON, *words),), minutes)


FIGURES = (
    benchmark("plan of a nation", 1, "benchmarks/scale.py", "plan", "--side", "317"),
    benchmark("dense mscnn", 2, "benchmarks/dense.py", "mscnn"),
    benchmark("dense resnet11-3d", 8, "benchmarks/dense.py", "resnet11-3d"),
    benchmark("cube against the idiom", 20, "benchmarks/cube.py"),
)
"""Figures without a test."""


def find_laws(root: Path = ROOT) -> list[Law]:
    """The files with soak tests, then `FIGURES`."""
    collect = [*PYTEST, "--collect-only", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run(collect, cwd=root, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"the tests cannot be collected:\n{found.stdout}{found.stderr}")
    files = dict.fromkeys(
        line.partition("::")[0] for line in found.stdout.splitlines() if ".py::" in line
    )
    tests = [Law(file, ((*PYTEST, file),), None, r"\b\d+ passed\b") for file in files]
    return [*tests, *FIGURES]


def commit_of(root: Path) -> str:
    """The commit, with a hash of what was changed since, other than logs."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True
        ).stdout

    changes = git("diff", "HEAD", "--", ".", ":(exclude)*.log")
    more = f"+{hashlib.sha256(changes.encode()).hexdigest()[:6]}" if changes else ""
    return git("rev-parse", "--short=10", "HEAD").strip() + more


def unchanged(root: Path, commit: str, law: str) -> bool:
    """Whether a law would run the same code as on a commit."""
    words = ["git", "diff", "--quiet", commit, "--", *CODE, law]
    return subprocess.run(words, cwd=root, capture_output=True).returncode == 0


class Soak:
    """Laws and what is known of each.

    Parameters
    ----------
    laws : in the order of their lines.
    work : folder of all output.
    commit : that they are run on.
    log : file of what is known.
    """

    def __init__(self, laws: Sequence[Law], work: Path, commit: str, log: Path) -> None:
        self.laws, self.work, self.commit, self.log = laws, work, commit, log
        work.mkdir(parents=True, exist_ok=True)
        known = log.read_text().splitlines() if log.exists() else []
        self.outcomes = {(row := json.loads(line))["law"]: Outcome(**row) for line in known}

    def here(self, law: Law) -> Outcome | None:
        """What became of it, if its code was what it is now."""
        found = self.outcomes.get(law.name)
        if found and (found.commit == self.commit or unchanged(ROOT, found.commit, law.name)):
            return found
        return None

    def open(self, again: bool = False) -> list[Law]:
        """Laws to run: what was not run with this code, then what failed."""
        if again:
            return list(self.laws)
        failed = [law for law in self.laws if (o := self.here(law)) and o.outcome == "failed"]
        return [law for law in self.laws if self.here(law) is None] + failed

    def run(self, law: Law) -> Outcome:
        """Run a law, and keep what became of it."""
        started, began = datetime.now(UTC), time.monotonic()
        path = self.work / (re.sub(r"\W+", "-", law.name).strip("-") + ".txt")
        with path.open("w") as out:
            well = all(_run(command, began + HOUR, out) for command in law.commands)
        lines = [line.strip("= ") for line in path.read_text(errors="replace").splitlines()]
        said = [line for line in lines if line and re.search(law.says, line)]
        last = said[-1] if said else "\n".join(lines[-3:])
        told = [line for line in lines if line.startswith("figures:") and line != last]
        outcome = Outcome(
            law.name,
            self.commit,
            f"{started:%Y-%m-%dT%H:%MZ}",
            round((time.monotonic() - began) / 60, 1),
            "passed" if well and (said or not law.says) else "failed",
            "; ".join([*told, last])[:2000],
        )
        self.outcomes[law.name] = outcome
        self._keep()
        return outcome

    def _keep(self) -> None:
        rows = [self.outcomes[law.name] for law in self.laws if law.name in self.outcomes]
        part = self.log.with_suffix(".part")
        part.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        part.replace(self.log)

    def table(self) -> str:
        lines = []
        for law in self.laws:
            found, known = self.here(law), self.outcomes.get(law.name)
            minutes = known.minutes if known else law.minutes
            state = found.outcome if found else "open"
            lines.append(f"{state:7} {'?' if minutes is None else minutes:>5} min  {law.name}")
        return "\n".join(lines)


def _run(command: Sequence[str], until: float, out: TextIO) -> bool:
    """Whether a command ended well and in time; whatever happens, nothing of it is left."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        return process.wait(max(until - time.monotonic(), 0)) == 0
    except subprocess.TimeoutExpired:
        out.write(f"stopped after {HOUR / 60:.0f} minutes\n")
        return False
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        process.kill()
        process.wait()


def end(number: int, _: object) -> None:
    """Answer a signal so that a law's processes end with this one."""
    sys.exit(128 + number)


def main(words: Sequence[str] | None = None, laws: Sequence[Law] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "soak")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--only", metavar="LAW", help="laws with this in their name")
    parser.add_argument("--again", action="store_true", help="also what passed")
    parser.add_argument("--list", action="store_true", help="show the laws and end")
    asked = parser.parse_args(words)
    soak = Soak(laws or find_laws(), asked.work, commit_of(ROOT), asked.log)
    if asked.list:
        print(soak.table())
        return 0
    chosen = [law for law in soak.laws if (asked.only or "") in law.name]
    if not chosen:
        raise SystemExit(f"no law is called {asked.only}; --list shows them")
    for law in [law for law in soak.open(asked.again) if law in chosen]:
        print(f"{datetime.now():%H:%M} {law.name}", flush=True)
        found = soak.run(law)
        print(f"      {found.outcome} after {found.minutes} min: {found.said}", flush=True)
    failed = [law.name for law in chosen if (o := soak.here(law)) and o.outcome == "failed"]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} laws hold", *failed, sep="\n  ")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main())
