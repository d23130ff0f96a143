"""Kill -9 and Ctrl-C of each verb: nothing is lost, nothing half looks whole, no litter stays.

The calls are forked from a process that has imported, so that many moments are cheap; a run starts
workers, which must end by themselves.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.forks import ROOT, STARTING, Ended, Forks
from support.shared import mapped
from support.verbs import MORE, VERBS, Verb, committed, prepare, read_store, tiles
from support.worlds import SMALL, synthesize

pytestmark = pytest.mark.slow

_STORE = ("chunks", "manifests", "snapshots", "transactions", "refs")


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("temporary")) as found:
        yield found


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("kills") / "country")


def listing(folder: Path) -> list[str]:
    """All files but those of the repository, whose orphans `prune` collects."""
    found = [path.relative_to(folder) for path in folder.rglob("*")]
    return sorted(str(p) for p in found if not (len(p.parts) > 2 and p.parts[1] in _STORE))


def require_no_litter(folder: Path, temporary: Path, clean: list[str]) -> None:
    assert listing(folder) == clean
    # torch makes a folder for what it compiles, and leaves it
    assert [p.name for p in temporary.iterdir() if not p.name.startswith("torch")] == []


class Law:
    """A verb undisturbed, and the same broken off at moments, all in one place: reports name it."""

    def __init__(self, verb: Verb, forks: Forks, country: Path, work: Path) -> None:
        self.verb, self.forks = verb, forks
        self.folder, self._start = work / "it's here", work / "start"
        shutil.copytree(country, self.folder)
        if verb.before:
            assert self.call(verb.before).code == 0
        self.old = verb.read(self.folder)
        shutil.copytree(self.folder, self._start)
        self.whole = self.call(verb.words)
        assert self.whole.code == 0, self.whole.said
        self.new, self.files = verb.read(self.folder), listing(self.folder)
        assert self.new is not None

    def call(self, words: str, **kill: Any) -> Ended:
        return self.forks.call(self.folder, words, **kill)

    def attack(self, **kill: Any) -> Ended:
        """Break a call off, and look at what is there."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._start, self.folder)
        ended = self.call(self.verb.words, **kill)
        found = self.verb.read(self.folder)
        if found is None:
            assert self.verb.gap or self.old is None, kill
        elif found != self.old:
            require_same(found, self.new, kill)
        return ended

    def require_whole(self) -> None:
        """After the next call."""
        found = self.verb.read(self.folder)
        assert found is not None
        require_same(found, self.new, None)
        require_no_litter(self.folder, self.forks.temporary, self.files)

    def attack_and_call(self, **kill: Any) -> None:
        killed = self.attack(**kill)
        assert killed.code in (0, -9), killed.said
        again = self.call(self.verb.words)
        assert again.code == 0, (kill, again.said)
        self.require_whole()


def require_same(found: Any, wanted: Any, why: object) -> None:
    differing = {k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k)}
    assert not differing, why


@pytest.fixture(scope="module")
def law(
    forks: Forks, country: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Law]:
    return cache(
        lambda name: Law((VERBS | MORE)[name], forks, country, tmp_path_factory.mktemp(name))
    )


Laws = Callable[[str], Law]


@pytest.mark.parametrize("name", VERBS)
def test_kill_nine_of_a_verb(name: str, law: Laws) -> None:
    """At a write of the second half; in the first it reads, and writes first files."""
    last = law(name).whole.writes
    law(name).attack_and_call(write=random.Random(name).randint(last // 2 + 1, last))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*VERBS, *MORE])
def test_kill_nine_at_moments_of_chance(name: str, law: Laws) -> None:
    """Twenty moments over a clean call's duration, and each of its writes."""
    chance, whole = random.Random(f"soak {name}"), law(name).whole
    for number in range(20):
        law(name).attack_and_call(after=whole.seconds * (number + chance.random()) / 20)
    for write in range(1, whole.writes + 1):
        law(name).attack_and_call(write=write)


# -- a run, whose workers are processes of their own --------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("group", [True, False], ids=["group", "driver"])
def test_kill_nine_of_a_run_at_moments_of_chance(forks: Forks, tmp_path: Path, group: bool) -> None:
    """Ten moments of each kind; workers end by themselves, and what was committed stays."""
    synthesize(SMALL, tmp_path / "clean", model="lcz-made-up", tile=160)
    start = Path(shutil.copytree(tmp_path / "clean", tmp_path / "start"))
    words = "run recipe.yaml --workers 1"
    whole = forks.call(tmp_path / "clean", words)
    assert whole.code == 0, whole.said
    new, clean, all_tiles = (f(tmp_path / "clean") for f in (read_store, listing, committed))
    assert f"{tiles(all_tiles)} tiles done" in whole.said
    chance = random.Random(f"run {group}")
    for number in range(10):
        folder = Path(shutil.copytree(start, tmp_path / "killed"))
        after = whole.seconds * (number + chance.random()) / 10
        forks.call(folder, words, after=after, group=group)
        require_ended(folder)
        before = committed(folder)
        assert before.items() <= all_tiles.items()
        again = forks.call(folder, words)
        assert again.code == 0, again.said
        assert f"{tiles(all_tiles) - tiles(before)} tiles done" in again.said
        assert read_store(folder) == new
        require_no_litter(folder, forks.temporary, clean)
        shutil.rmtree(folder)


def require_ended(folder: Path) -> None:
    """No process works in a folder any more."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        left = [p for p in psutil.process_iter(["cwd", "cmdline"]) if p.info["cwd"] == str(folder)]
        if not left:
            return
        time.sleep(0.2)
    raise AssertionError(left)


# -- Ctrl-C at a terminal ---------------------------------------------------------------------


def resume(said: str) -> str:
    """Execute the command that was printed, by a shell in another folder; what it says."""
    found = re.search(r"To resume: (.*?)\r?\n", said)
    assert found, said
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",  # as `Forks` has it: another number rounds another way
    }
    done = subprocess.run(
        ["bash", "-c", found[1]], cwd="/", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, (found[1], done.stderr)
    return done.stderr


def require_broken_off(ended: Ended) -> None:
    assert ended.code == 130, ended.said
    for word in ("Traceback", "Error", "Exception", "Warning"):
        assert word not in ended.said


RUN = ["run", "recipe.yaml", "--workers", "1", "--set", "filter.method=none"]
"""Of the mapped country all nine tiles of the map are stale, and nothing else."""


def test_ctrl_c_in_a_run(forks: Forks, tmp_path: Path) -> None:
    for number in range(3):  # a machine under load may be told of it when all is done
        folder = mapped(tmp_path / f"it's {number}")
        ended = forks.call(folder, RUN, press=["dashboard"])
        if ended.code:
            break
    require_broken_off(ended)
    assert "stopped; all of it is kept" in ended.said
    done = re.search(r"(\d+) tiles done", ended.said)
    assert done
    assert f"{9 - int(done[1])} tiles done" in resume(ended.said)


def test_ctrl_c_while_workers_start(forks: Forks, tmp_path: Path) -> None:
    """Dask would fail in closing what has only begun, with three traces."""
    folder = mapped(tmp_path / "country")
    ended = forks.call(folder, RUN, press=[STARTING])
    require_broken_off(ended)
    assert "To resume: " in ended.said
    require_ended(folder)
    assert not list(forks.temporary.glob("natmap-*"))


def test_ctrl_c_in_a_training(law: Laws) -> None:
    for _ in range(3):
        ended = law("train").attack(press=["epoch 1 of"])
        if ended.code:
            break
    require_broken_off(ended)
    assert (law("train").folder / "model" / "state.pt").exists()
    assert "epoch 1 of" in resume(ended.said)
    law("train").require_whole()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*VERBS, *MORE])
def test_ctrl_c_at_moments_of_a_verb(name: str, law: Laws) -> None:
    chance = random.Random(f"terminal {name}")
    for number in range(5):
        moment = law(name).whole.seconds * (number + chance.random()) / 5
        ended = law(name).attack(press=[moment])
        if ended.code:
            require_broken_off(ended)
            resume(ended.said)
        law(name).require_whole()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ctrl_c_in_each_stage_of_a_run(forks: Forks, tmp_path: Path) -> None:
    """One store, broken off while it plans, searches and starts, and in each stage; twice at the
    last one."""
    synthesize(SMALL, tmp_path / "clean", model="lcz-made-up", tile=160)
    folder = Path(shutil.copytree(tmp_path / "clean", tmp_path / "a b'c"))
    words = "run recipe.yaml --workers 1"
    whole = forks.call(tmp_path / "clean", words)
    assert whole.code == 0, whole.said
    ended = forks.call(folder, "plan recipe.yaml", press=[0.3])
    assert "Traceback" not in ended.said
    done = 0
    for press in (
        [0.2],
        [STARTING],
        ["dashboard"],
        ["scenes"],
        ["composite"],
        ["scores", "stopping"],
    ):
        ended = forks.call(folder, words, press=press)
        require_broken_off(ended)
        assert tiles(committed(folder)) >= done
        done = tiles(committed(folder))
    every = tiles(committed(tmp_path / "clean"))
    assert 0 < done < every
    assert f"{every - done} tiles done" in resume(ended.said)
    assert read_store(folder) == read_store(tmp_path / "clean")
    require_no_litter(folder, forks.temporary, listing(tmp_path / "clean"))
