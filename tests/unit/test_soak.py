"""`make soak`: resumes where it was stopped, tells of every law, and does not hide a failure."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.benchmark import load

soak = load("soak")
COMMIT_OF = soak.commit_of
SHELL = "/bin/sh", "-c"


@pytest.fixture(autouse=True)
def _commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "commit_of", lambda root: "here")


def law(name: str, *scripts: str, says: str = "") -> soak.Law:
    return soak.Law(name, tuple((*SHELL, script) for script in scripts), 1, says)


def run(folder: Path, laws: list[soak.Law], *words: str) -> int:
    log = ["--work", str(folder / "work"), "--log", str(folder / "soak.log")]
    return int(soak.main([*log, *words], laws))


def lines(folder: Path) -> dict[str, tuple[str, str]]:
    rows = [json.loads(line) for line in (folder / "soak.log").read_text().splitlines()]
    return {row["law"]: (row["outcome"], row["said"]) for row in rows}


def test_a_law_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    laws = [
        law("first", "echo figures: 7 tiles", "echo done"),
        law("second", "echo no >&2; exit 3", "touch never"),
        law("third", "echo 5 passed, 1 skipped; echo a word at the end", says="[0-9] passed"),
        law("silent", "echo 4 skipped", says="[0-9] passed"),
    ]
    assert run(tmp_path, laws) == 1
    assert lines(tmp_path) == {
        "first": ("passed", "figures: 7 tiles; done"),
        "second": ("failed", "no"),
        "third": ("passed", "5 passed, 1 skipped"),
        "silent": ("failed", "4 skipped"),
    }


def test_what_passed_is_not_run_again_and_what_failed_is_last(tmp_path: Path) -> None:
    count = f"echo x >> {tmp_path}/"
    laws = [law("a", count + "a; exit 1"), law("b", count + "b"), law("c", count + "c")]
    assert run(tmp_path, laws, "--only", "a") == 1
    laws[0] = law("a", f"test -e {tmp_path}/c")  # mended; c was run before it
    assert run(tmp_path, laws) == 0
    assert run(tmp_path, laws) == 0
    assert run(tmp_path, laws, "--again", "--only", "b") == 0
    ran = {name: (tmp_path / name).read_text().count("x") for name in "abc"}
    assert ran == {"a": 1, "b": 2, "c": 1}


def test_another_commit_is_another_soak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    laws = [law("a", f"echo x >> {tmp_path}/a")]
    run(tmp_path, laws)
    run(tmp_path, laws, "--list")
    assert capsys.readouterr().out.splitlines()[-1].startswith("passed ")
    monkeypatch.setattr(soak, "commit_of", lambda root: "another")
    run(tmp_path, laws, "--list")
    assert capsys.readouterr().out.startswith("open ")
    run(tmp_path, laws)
    assert (tmp_path / "a").read_text() == "x\nx\n"


def test_what_passed_holds_until_its_code_changes(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = "-c", "user.name=x", "-c", "user.email=x@y"
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    def write(**files: int) -> None:
        for name, value in files.items():
            path = tmp_path / name.replace("_", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(f"{value}\n")

    def holds(*laws: str) -> list[bool]:
        return [soak.unchanged(tmp_path, first, law) for law in laws]

    write(engine_code=1, tests_a=1, tests_b=1)
    (tmp_path / "soak.log").write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    first = COMMIT_OF(tmp_path)
    (tmp_path / "soak.log").write_text("2\n")
    assert COMMIT_OF(tmp_path) == first
    assert holds("tests/a.py", "tests/b.py", "a figure") == [True, True, True]
    write(tests_a=2)
    assert COMMIT_OF(tmp_path).startswith(f"{first}+")
    assert holds("tests/a.py", "tests/b.py", "a figure") == [False, True, True]
    git("commit", "-am", "two")
    assert holds("tests/a.py", "tests/b.py", "a figure") == [False, True, True]
    write(engine_code=2)
    assert holds("tests/a.py", "tests/b.py", "a figure") == [False, False, False]
    first = "0123456789"  # nobody knows it
    assert holds("tests/b.py") == [False]


def test_a_law_has_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "HOUR", 0.3)
    assert run(tmp_path, [law("long", "sleep 60"), law("short", "true")]) == 1
    assert lines(tmp_path)["long"][0] == "failed"
    assert lines(tmp_path)["short"][0] == "passed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_soak_goes_on_with_the_law_that_is_not_done(tmp_path: Path, number: int) -> None:
    script = f"""
import signal, sys
sys.path.insert(0, "{soak.ROOT}/tests")
from support.benchmark import load
soak = load("soak")
soak.commit_of = lambda root: "here"
signal.signal(signal.SIGTERM, soak.end)
one = soak.Law("one", (("/bin/sh", "-c", "echo x >> {tmp_path}/one"),))
two = soak.Law("two", (("/bin/sh", "-c", "echo $$ > {tmp_path}/two; sleep 60; true"),))
words = ["--work", "{tmp_path}/work", "--log", "{tmp_path}/soak.log"]
sys.exit(soak.main(words, [one, two]))
"""
    process, pid = subprocess.Popen([sys.executable, "-c", script]), tmp_path / "two"
    until = time.monotonic() + 30
    while not (pid.exists() and pid.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(10) != 0
    if number == signal.SIGKILL:  # what it ran goes on
        psutil.Process(int(pid.read_text())).kill()
    else:
        assert not psutil.pid_exists(int(pid.read_text()))
    assert lines(tmp_path).keys() == {"one"}
    laws = [law("one", f"echo x >> {tmp_path}/one"), law("two", "true")]
    assert run(tmp_path, laws) == 0
    assert (tmp_path / "one").read_text() == "x\n"
    assert lines(tmp_path).keys() == {"one", "two"}


@pytest.mark.slow
def test_files_with_soak_tests_are_laws(tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.soak\ndef test_large(): pass\ndef test_small(): pass\n"
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = soak\naddopts = -m 'not soak'\n")
    (tmp_path / "test_a.py").write_text(test)
    (tmp_path / "test_b.py").write_text("def test_small(): pass\n")
    found = [each for each in soak.find_laws(tmp_path) if each not in soak.FIGURES]
    assert [each.name for each in found] == ["test_a.py"]
    (tmp_path / "test_b.py").write_text("nonsense\n")
    with pytest.raises(SystemExit, match="cannot be collected"):
        soak.find_laws(tmp_path)
