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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.forks import ROOT, Ended, Forks
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
    assert [path.name for path in temporary.iterdir()] == []


class Law:
    """A verb undisturbed, and the same killed at moments."""

    def __init__(self, verb: Verb, forks: Forks, country: Path, work: Path) -> None:
        self.verb, self.forks, self.work = verb, forks, work
        self.start = Path(shutil.copytree(country, work / "start"))
        if verb.before:
            assert self.call(self.start, verb.before).code == 0
        self.old = verb.read(self.start)
        self.clean = Path(shutil.copytree(self.start, work / "clean"))
        self.whole = self.call(self.clean, verb.words)
        assert self.whole.code == 0, self.whole.said
        self.new = verb.read(self.clean)
        self.files = listing(self.clean)
        assert self.new is not None

    def call(self, folder: Path, words: str, **kill: Any) -> Ended:
        return self.forks.call(folder, words, **kill)

    def attack(self, name: str, **kill: Any) -> None:
        """Kill a call, look at what is there, call again."""
        folder = Path(shutil.copytree(self.start, self.work / name))
        killed = self.call(folder, self.verb.words, **kill)
        assert killed.code in (0, -9), killed.said
        found = self.verb.read(folder)
        assert found in (self.old, self.new) or (self.verb.gap and found is None), kill
        again = self.call(folder, self.verb.words)
        assert again.code == 0, (kill, again.said)
        assert self.verb.read(folder) == self.new, kill
        require_no_litter(folder, self.forks.temporary, self.files)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", VERBS)
def test_kill_nine_of_a_verb(name: str, forks: Forks, country: Path, tmp_path: Path) -> None:
    law = Law(VERBS[name], forks, country, tmp_path)
    chance = random.Random(name)
    last = law.whole.writes
    # the second half: the first is reading, and the first files
    law.attack("killed", write=chance.randint(last // 2 + 1, last))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*VERBS, *MORE])
def test_kill_nine_at_moments_of_chance(
    name: str, forks: Forks, country: Path, tmp_path: Path
) -> None:
    """Twenty moments over a clean call's duration, and each of its writes."""
    law = Law((VERBS | MORE)[name], forks, country, tmp_path)
    chance = random.Random(f"soak {name}")
    for number in range(20):
        law.attack(f"s{number}", after=law.whole.seconds * (number + chance.random()) / 20)
    for write in range(1, law.whole.writes + 1):
        law.attack(f"w{write}", write=write)


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
    }
    done = subprocess.run(
        ["bash", "-c", found[1]], cwd="/", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, (found[1], done.stderr)
    return done.stderr


def require_broken_off(ended: Ended) -> None:
    assert ended.code == 130, ended.said
    for word in ("Traceback", "Error", "Exception"):
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


def test_ctrl_c_in_a_training(forks: Forks, country: Path, tmp_path: Path) -> None:
    law = Law(VERBS["train"], forks, country, tmp_path)
    for number in range(3):
        folder = Path(shutil.copytree(law.start, tmp_path / f"it's {number}"))
        ended = forks.call(folder, law.verb.words, press=["epoch 1 of"])
        if ended.code:
            break
    require_broken_off(ended)
    assert (folder / "model" / "state.pt").exists()
    assert law.verb.read(folder) in (law.old, None)
    assert "epoch 1 of" in resume(ended.said)
    assert law.verb.read(folder) == law.new
    require_no_litter(folder, forks.temporary, law.files)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*VERBS, *MORE])
def test_ctrl_c_at_moments_of_a_verb(
    name: str, forks: Forks, country: Path, tmp_path: Path
) -> None:
    law = Law((VERBS | MORE)[name], forks, country, tmp_path)
    chance = random.Random(f"terminal {name}")
    for number in range(5):
        folder = Path(shutil.copytree(law.start, tmp_path / f"it's {number}"))
        moment = law.whole.seconds * (number + chance.random()) / 5
        ended = forks.call(folder, law.verb.words, press=[moment])
        if ended.code:
            require_broken_off(ended)
            found = law.verb.read(folder)
            assert found in (law.old, law.new) or (law.verb.gap and found is None)
            resume(ended.said)
        assert law.verb.read(folder) == law.new
        require_no_litter(folder, forks.temporary, law.files)


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
    for press in ([0.2], [1.0], ["dashboard"], ["scenes"], ["composite"], ["scores", "stopping"]):
        ended = forks.call(folder, words, press=press)
        require_broken_off(ended)
        assert tiles(committed(folder)) >= done
        done = tiles(committed(folder))
    every = tiles(committed(tmp_path / "clean"))
    assert 0 < done < every
    assert f"{every - done} tiles done" in resume(ended.said)
    assert read_store(folder) == read_store(tmp_path / "clean")
    require_no_litter(folder, forks.temporary, listing(tmp_path / "clean"))
