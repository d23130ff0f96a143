"""What is written is whole or not there, at whichever write its process dies."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import engine.files
from engine.files import scratch, together, whole_folder, write_whole

ROOT = Path(__file__).resolve().parents[2]

DYING = """
import os, signal, sys
from pathlib import Path
import engine.files
from engine.files import together, whole_folder
writes = 0
for line in sys.stdin:
    name, last = line.split()
    folder, last = Path(name), int(last)
    told, tell = os.pipe()
    if not os.fork():
        break
    os.close(tell)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print(code, os.read(told, 9).decode(), flush=True)
else:
    sys.exit()

def look(event, args):
    global writes
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
        event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        writes += 1
        if writes == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(look)
BODY
os.write(tell, str(writes).encode())
os._exit(0)
"""
TOGETHER = """
with together(folder, mark="card", before=["picture"]) as part:
    (part / "weights").write_text("new")
    (part / "more").mkdir()
    (part / "more" / "table").write_text("new")
    (part / "card").write_text("new")
"""
WHOLE = """
with whole_folder(folder / "set") as part:
    (part / "x").write_text("new")
    (part / "y").write_text("new")
"""


class Calls:
    """Forks that run some lines, each to the n-th write, before which it is killed."""

    def __init__(self, body: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", DYING.replace("BODY", body)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def call(self, folder: Path, last: int = 0) -> int:
        """All writes; 0 where it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{folder} {last}\n")
        self._process.stdin.flush()
        code, *writes = map(int, self._process.stdout.readline().split())
        assert code == (0 if writes else -9)
        return writes[0] if writes else 0

    def end(self) -> None:
        self._process.communicate()


def read(folder: Path) -> dict[str, str]:
    """Files that people see: no hidden ones."""
    names = [path for path in folder.rglob("*") if path.is_file()]
    shown = [p for p in names if not any(q.startswith(".") for q in p.relative_to(folder).parts)]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in shown}


def require_clean(folder: Path) -> None:
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_files_come_together_whenever_the_process_dies(tmp_path: Path) -> None:
    """A mark never stands beside files of another call."""
    old = {"card": "old", "weights": "old", "more/table": "old", "picture": "old", "own": "kept"}
    new = {"card": "new", "weights": "new", "more/table": "new", "own": "kept"}
    seen, calls = set(), Calls(TOGETHER)
    for last in range(1, 60):
        folder = tmp_path / str(last)
        for name, text in old.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        whole = calls.call(folder, last)
        found = read(folder)
        assert found["own"] == "kept"
        if "card" in found:
            assert found == (new if found["card"] == "new" else old)
        seen.add(found.get("card"))
        if whole:
            break
        calls.call(folder)  # the next one
        assert read(folder) == new
        require_clean(folder)
    calls.end()
    assert seen == {"old", "new", None}
    assert whole > 8


@pytest.mark.parametrize("fallback", [False, True])
def test_a_folder_is_whole_whenever_the_process_dies(tmp_path: Path, fallback: bool) -> None:
    calls = Calls(("engine.files.exchange = lambda *_: False\n" if fallback else "") + WHOLE)
    for last in range(1, 60):
        folder = tmp_path / str(last)
        (folder / "set").mkdir(parents=True)
        for name in "xz":
            (folder / "set" / name).write_text("old")
        whole = calls.call(folder, last)
        found = read(folder)
        new = {"set/x": "new", "set/y": "new"}
        assert found in ({"set/x": "old", "set/z": "old"}, new) or (fallback and not found)
        if whole:
            break
        calls.call(folder)
        assert read(folder) == new
        require_clean(folder)
    calls.end()
    assert whole > 6


def test_scratch_of_the_dead_goes_that_of_the_living_and_others_stays(tmp_path: Path) -> None:
    (tmp_path / "natmap-12345678").mkdir()  # somebody's own
    (tmp_path / "natmap-12345678" / "file").write_text("kept")
    dying = "with scratch() as part:\n    (part / 'key').write_text('x')\n    os._exit(9)"
    subprocess.run(
        [sys.executable, "-c", f"import os\nfrom engine.files import scratch\n{dying}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
    )
    left = [p for p in tmp_path.iterdir() if (p / "key").exists()]
    assert len(left) == 1
    assert left[0].stat().st_mode & 0o077 == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.files.tempfile, "tempdir", str(tmp_path))
        with scratch() as alive:
            assert not left[0].exists()
            with scratch() as other:
                assert alive.exists()
            assert not other.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["natmap-12345678"]


def test_what_fails_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "card").write_text("old")
    with suppress(ZeroDivisionError), together(tmp_path, mark="card") as part:
        (part / "card").write_text("new")
        _ = 1 / 0
    (tmp_path / "set").mkdir()
    with suppress(ZeroDivisionError), whole_folder(tmp_path / "set"):
        _ = 1 / 0
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["card", "set"]
    assert (tmp_path / "card").read_text() == "old"
    with suppress(ZeroDivisionError), together(tmp_path / "new"):
        _ = 1 / 0
    assert not (tmp_path / "new").exists()


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk" / "set").mkdir(parents=True)
    (tmp_path / "set").symlink_to(tmp_path / "disk" / "set")
    with whole_folder(tmp_path / "set") as part:
        (part / "x").write_text("new")
    assert (tmp_path / "set").is_symlink()
    assert (tmp_path / "disk" / "set" / "x").read_text() == "new"
    write_whole(tmp_path / "page", "text")
    assert (tmp_path / "page").read_text() == "text"
