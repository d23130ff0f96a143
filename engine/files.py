"""Files and folders that are whole or not there, and scratch that goes with its process.

Kill -9, a full disk or a lost machine may end a process between any two writes. So nothing is
written where readers look: it is made in a folder beside, then renamed. What a killed process left
of such folders is known by its lock, which the system has dropped, and the next call removes it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["exchange", "is_alive", "scratch", "sweep", "together", "whole_folder", "write_whole"]

_OWNER = ".owner"  # of a scratch folder: locked for as long as its process lives
_NAME = re.compile(r"\.?natmap-(?P<made>making-(?P<host>[^~]*)~(?P<process>\d+)~)?[a-z0-9_]{8}")
_LONG = 60.0  # seconds that making one takes at most
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2
_HERE = -100  # AT_FDCWD


@contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """A new folder for its user alone, gone at the end; those of killed processes go, too.

    Parameters
    ----------
    folder : that it is made in, hidden; by default the one for temporary files.
    """
    place = Path(tempfile.gettempdir()) if folder is None else folder
    prefix = "natmap-" if folder is None else ".natmap-"
    sweep(place)
    who = f"making-{socket.gethostname()}~{os.getpid()}~"
    making = Path(tempfile.mkdtemp(prefix=f"{prefix}{who}", dir=place))
    lock = FileLock(making / _OWNER)
    try:
        with suppress(NotImplementedError):  # a file system without locks: nobody will sweep it
            lock.acquire()
        # locked before it has a name by which others look for what was left
        part = making.rename(making.with_name(making.name.replace(who, "")))
    except BaseException:
        lock.release()
        shutil.rmtree(making, ignore_errors=True)
        raise
    try:
        yield part
    finally:
        _remove(part)
        lock.release()


@contextmanager
def together(folder: Path, mark: str | None = None, before: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to fill, whose files are put into another one when all are there.

    Parameters
    ----------
    folder : made where it is missing; what else it holds stays.
    mark : name of the file by which readers know that all are there: the old one goes first, the
        new one comes last. Not needed where there is one file.
    before : names of files that an earlier call may have made; where this one does not, they go.
    """
    there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _filled(folder, mark, before) as part:
            yield part
    except BaseException:
        if not there:
            with suppress(OSError):  # what came to be in it stays
                folder.rmdir()
        raise


@contextmanager
def _filled(folder: Path, mark: str | None, before: Sequence[str]) -> Iterator[Path]:
    with scratch(folder) as part:
        yield part
        files = [path for path in part.rglob("*") if path.is_file() and path.name != _OWNER]
        names = sorted(path.relative_to(part) for path in files)
        if mark is not None:
            (folder / mark).unlink(missing_ok=True)
            names.sort(key=lambda name: name.as_posix() == mark)
        for gone in {*before} - {name.as_posix() for name in names}:
            (folder / gone).unlink(missing_ok=True)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).replace(folder / name)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in place of what is there."""
    with together(path.parent) as part:
        (part / path.name).write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of another one of natmap's own when it is whole."""
    folder = folder.resolve()  # the one that a link leads to
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder.parent) as part:
        made = part / folder.name
        made.mkdir()
        yield made
        if not exchange(made, folder):
            if folder.exists():
                folder.rename(part / "old")
            made.rename(folder)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once; False where the other is missing, or nobody here can.

    Raises
    ------
    OSError
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None or not other.exists():
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(error, os.strerror(error), str(other))


def sweep(place: Path) -> None:
    """Remove the scratch folders of processes that are dead.

    Whoever finds a whole folder and makes none asks for it: what a process left that died right
    after making it would stay otherwise.
    """
    try:
        there = list(place.iterdir())
    except OSError:  # it may be written, but not listed
        return
    for path in there:
        owner = path / _OWNER
        try:
            found, known = path.lstat(), _NAME.fullmatch(path.name)
            if not known or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            if known["made"] and _may_be_making(known, time.time() - found.st_mtime):
                continue
            if owner.is_file():
                with FileLock(owner, timeout=0):
                    _remove(path)
            else:
                path.rmdir()  # where it is empty: all but the folder itself was gone
        except (OSError, Timeout, NotImplementedError):
            continue  # alive, somebody else's, or gone meanwhile


def _may_be_making(known: re.Match[str], age: float) -> bool:
    """Whether a folder without a lock yet may still get one, by the process that its name tells."""
    process = int(known["process"])
    # of a container, the first process has one number each time
    here = known["host"] == socket.gethostname() and process != os.getpid()
    return age < _LONG and not (here and not is_alive(process))


def is_alive(process: int) -> bool:
    """Whether a process of this machine is there, anybody's."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(folder: Path) -> None:
    """Remove a scratch folder; its lock goes last, for whoever has to finish this."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _OWNER:
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
