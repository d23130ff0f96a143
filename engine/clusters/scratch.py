"""A run's private folder: closed to all other users, gone with the run or at the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import RunError

__all__ = ["private_folder"]

_PREFIX = "natmap-run-"  # of these folders alone: others hold no lock
_YOUNG = 60.0  # seconds within which a folder may not have been locked by its owner yet


@contextmanager
def private_folder(where: Path | None = None) -> Iterator[Path]:
    """A new folder for its user alone (mode 0700), removed at the end.

    A killed process leaves its folder behind, with a key in it perhaps. The kernel has dropped its
    lock, so that the next call knows such folders and removes them.

    Parameters
    ----------
    where : Path, optional
        That hosts share, made if need be; by default the machine's own for temporary files.

    Raises
    ------
    RunError
        Where it cannot be made.
    """
    try:
        if where is not None:
            where.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=where, ignore_cleanup_errors=True)
    except OSError as error:
        raise RunError(
            "the cluster's shared folder cannot be used" if where else "no room for scratch",
            got=error,
            remedy="set `folder` in the settings file: one that all hosts see"
            if where
            else "make room, or set TMPDIR",
        ) from error
    with made as name:
        folder = Path(name)
        held = _lock(folder)
        try:
            _sweep(folder.parent)
            yield folder
        finally:
            if held is not None:
                os.close(held)


def _lock(folder: Path) -> int | None:
    """A lock that ends with this process, None where another holds it or locks are unknown."""
    try:
        found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(found)
        return None
    return found


def _sweep(parent: Path) -> None:
    """Remove what killed processes of this user left."""
    for folder in parent.glob(f"{_PREFIX}????????"):
        try:
            known = folder.lstat()
        except OSError:
            continue
        mine = known.st_uid == os.geteuid() and known.st_mode & 0o077 == 0
        if not mine or time.time() - known.st_mtime < _YOUNG:
            continue
        held = _lock(folder)
        if held is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)
