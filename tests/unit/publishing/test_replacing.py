"""A product folder is replaced, and nothing that natmap did not write: attacks on it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import PublishError
from engine.publishing import replace
from engine.publishing.report import SCHEMA


def fill(folder: Path, *names: str, text: str = "new") -> None:
    """A product of a few files."""
    names = (*names, "toy.tif", "items/toy.json", "report.json")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    told = {"schema": SCHEMA, "name": "toy", "contents": sorted(names)}
    (folder / "report.json").write_text(json.dumps(told))


def publish(folder: Path, *names: str) -> None:
    with replace.replacing(folder) as part:
        fill(part, *names)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    folder = tmp_path / "p"
    folder.mkdir()
    fill(folder, text="old")
    return folder


def state(folder: Path) -> dict[str, str]:
    """All files and links of a folder with what they hold, and its empty folders."""
    return {
        p.relative_to(folder).as_posix(): os.readlink(p)
        if p.is_symlink()
        else p.read_text()
        if p.is_file()
        else "folder"
        for p in folder.rglob("*")
        if p.is_symlink() or p.is_file() or not any(p.iterdir())
    }


@pytest.mark.parametrize("exchange", [True, False])
def test_whatever_somebody_put_there_stays(
    product: Path, tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(replace, "exchange", lambda one, other: False)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    (product / "linked").symlink_to(outside)
    (product / "dangling").symlink_to("nowhere")
    (product / "items" / "mine.json").write_text("mine")
    (product / "items" / "deep" / "er").mkdir(parents=True)
    (product / "items" / "deep" / "er" / "a.txt").write_text("a")
    (product / "empty").mkdir()
    os.link(outside / "precious.txt", product / "hard.txt")
    odd = os.fsdecode(b"caf\xe9 \xff.txt")
    (product / odd).write_text("odd")
    product.chmod(0o750)
    publish(product)
    found = state(product)
    assert found.pop("toy.tif") == found.pop("items/toy.json") == "new"
    assert json.loads(found.pop("report.json"))["contents"]
    assert found == {
        "linked": str(outside),
        "dangling": "nowhere",
        "items/mine.json": "mine",
        "items/deep/er/a.txt": "a",
        "empty": "folder",
        "hard.txt": "precious",
        odd: "odd",
    }
    assert (outside / "precious.txt").read_text() == "precious"
    assert product.stat().st_mode & 0o777 == 0o750
    assert {p.name for p in tmp_path.iterdir()} == {"p", "outside"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("toy.qml", "toy.qml"),
        ("model", "model/card.json"),  # a file where a folder goes
        ("model/card.json/notes", "model/card.json"),  # a folder where a file goes
    ],
)
def test_a_file_of_somebody_s_is_never_written_over(product: Path, theirs: str, ours: str) -> None:
    (product / theirs).parent.mkdir(parents=True, exist_ok=True)
    (product / theirs).write_text("mine")
    before = state(product)
    with pytest.raises(PublishError, match=r"did not write(.|\n)*move them"):
        publish(product, ours)
    assert state(product) == before
    assert [p.name for p in product.parent.iterdir()] == ["p"]


def test_a_link_in_place_of_natmap_s_folder_is_not_followed(product: Path, tmp_path: Path) -> None:
    elsewhere = (product / "items").rename(tmp_path / "elsewhere")
    (product / "items").symlink_to(elsewhere)
    with pytest.raises(PublishError, match="did not write"):
        publish(product)
    assert (elsewhere / "toy.json").read_text() == "old"


def test_a_link_to_the_product_folder_stays_one(product: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(product)
    publish((tmp_path / "latest").resolve())
    assert (tmp_path / "latest").is_symlink()
    assert (product / "toy.tif").read_text() == "new"


def test_side_files_of_programs_go_with_their_raster(product: Path) -> None:
    (product / "toy.tif.aux.xml").write_text("statistics of the old map")
    publish(product)
    assert not (product / "toy.tif.aux.xml").exists()


def test_where_a_disk_is_mounted_nothing_is_begun() -> None:
    with pytest.raises(PublishError, match=r"mounted(.|\n)*/proc/product"):
        publish(Path("/proc"))


def test_two_at_once_do_not_mix(product: Path) -> None:
    """The second is refused, and what the first makes is whole."""
    with replace.replacing(product) as part:
        fill(part)
        with pytest.raises(PublishError, match="another process is publishing"):
            publish(product)
    assert (product / "toy.tif").read_text() == "new"
    code = (
        "import fcntl, os, sys; place = os.open(sys.argv[1], os.O_RDONLY)\n"
        "fcntl.flock(place, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-S", "-c", code, str(product)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(PublishError, match="another process is publishing"):
            publish(product)
        other.communicate()
    publish(product)
    assert [p.name for p in product.parent.iterdir()] == ["p"]


def dead() -> int:
    said = [sys.executable, "-c", "import os; print(os.getpid())"]
    return int(subprocess.run(said, capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    ("whose", "days", "swept"),
    [
        (lambda: f"{socket.gethostname()}~{dead()}", 0, True),
        (lambda: f"{socket.gethostname()}~{os.getpid()}", 0, True),  # as in a new container
        (lambda: f"{socket.gethostname()}~{os.getppid()}", 9, False),  # at work
        (lambda: "elsewhere~1", 0, False),  # maybe at work
        (lambda: "elsewhere~1", 2, True),
    ],
)
def test_what_a_killed_process_left_is_swept(
    product: Path,
    whose: Callable[[], str],
    days: int,
    swept: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = product.with_name(f".p~{whose()}~0a1b")
    fill(left, text="half")
    other = product.with_name(f".p~q~{socket.gethostname()}~{dead()}~0a1b-old")  # of product p~q
    fill(other, text="another's")
    now = time.time()
    monkeypatch.setattr(replace.time, "time", lambda: now + days * 86_400)
    publish(product)
    assert left.exists() is not swept
    assert other.exists()
    # what was moved away, and not replaced, is put back
    product.rename(left.with_name(left.name + "-old"))
    if swept:
        with pytest.raises(ZeroDivisionError), replace.replacing(product):
            raise ZeroDivisionError
        assert (product / "toy.tif").read_text() == "new"


def test_a_report_that_lists_other_places_reaches_none(product: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    told = json.loads((product / "report.json").read_text())
    told["contents"] += ["../precious.txt", str(precious), "..", "/", 3, None]
    (product / "report.json").write_text(json.dumps(told))
    publish(product)
    assert precious.read_text() == "precious"
