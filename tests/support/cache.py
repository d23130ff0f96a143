"""Folders that are dear to make and the same every time, kept on disk between runs of the suite."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(os.environ.get("NATMAP_TEST_CACHE", ROOT / ".test-cache"))
_KEPT = 12  # folders of one kind; the oldest go first


@cache
def source_hash(*folders: str) -> str:
    """A hash of all files of packages of the engine: what a kept folder was made by."""
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".json", ".safetensors"):
                found.update(str(path.relative_to(ROOT)).encode())
                found.update(path.read_bytes())
    return found.hexdigest()[:16]


def kept(kind: str, key: str, build: Callable[[Path], object]) -> Path:
    """The folder that `build` fills, made once for each key; processes wait for each other.

    Nobody may change what is in it: copy it, or link its files.
    """
    name = hashlib.sha256(key.encode()).hexdigest()[:20]
    home = PLACE / kind
    home.mkdir(parents=True, exist_ok=True)
    target = home / name
    with FileLock(home / f"{name}.lock"):
        if target.is_dir():
            os.utime(target)
            return target
        with tempfile.TemporaryDirectory(dir=home, prefix="making-") as folder:
            inner = Path(folder) / "made"
            inner.mkdir()
            build(inner)
            inner.rename(target)
    _forget(home)
    return target


def _forget(home: Path) -> None:
    """Drop the oldest folders beyond the number that is kept."""
    found = [p for p in home.iterdir() if p.is_dir() and not p.name.startswith("making-")]
    found.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for path in found[_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
