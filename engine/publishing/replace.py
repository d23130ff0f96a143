"""A product folder put in place whole: whose it is, what of it natmap wrote, and what is kept."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import PublishError
from engine.publishing.report import SCHEMA

__all__ = ["contents_of", "replacing"]

_OLD = "-old"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2
_HERE = -100  # AT_FDCWD


def contents_of(folder: Path) -> set[str] | None:
    """Files of a folder that natmap wrote, by relative path; None where it is no product.

    A report lists them. In folders of before it did, they are what the product's own collection and
    items name.
    """
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if report["schema"] != SCHEMA:
            return None
        if (listed := report.get("contents")) is not None:
            return {name for name in listed if isinstance(name, str)}
        name = str(report["name"])
        found = {"report.json", "preview.png", "collection.json"}
        for item in (folder / "items").glob(f"{name}*.json"):
            assets = json.loads(item.read_text(encoding="utf-8"))["assets"]
            found |= {
                f"items/{item.name}",
                *(a["href"].removeprefix("../") for a in assets.values()),
            }
        collection = json.loads((folder / "collection.json").read_text(encoding="utf-8"))
        found |= {a["href"].removeprefix("./") for a in collection.get("assets", {}).values()}
        return found if any(entry.startswith("items/") for entry in found) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes another one's place when it is whole.

    What natmap did not write in the old one is carried over. Where the file system can exchange two
    folders nobody ever sees neither; else there is a moment between two renames, and a process
    that dies in it is made up for by the next.

    Parameters
    ----------
    folder : of the product.

    Raises
    ------
    PublishError
        Where the folder holds something else; it stays as it is.
    """
    _recover(folder)
    if folder.exists() and contents_of(folder) is None and any(_entries(folder)):
        raise PublishError(
            "the product folder holds something else",
            got=folder,
            expected="a product of natmap, an empty folder, or none",
            remedy="name another folder in `publish`",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}-{socket.gethostname()}-{os.getpid()}-"
    part = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's are for their owner alone
        old = part.with_name(part.name + _OLD)
        if _exchange(part, folder):
            part.rename(old)
        elif folder.exists():
            folder.rename(old)
            try:
                part.rename(folder)
            except OSError:
                old.rename(folder)
                raise
        else:
            part.rename(folder)
        _retire(old, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _entries(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        yield folder
    else:
        yield from folder.iterdir()


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once, where the file system can."""
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


def _retire(old: Path, folder: Path) -> None:
    """Carry over what natmap did not write, and remove the rest."""
    if not old.exists():
        return
    written = contents_of(old) or set()
    for path in sorted(old.rglob("*")):
        name = path.relative_to(old)
        if path.is_dir() and not path.is_symlink():
            continue
        if name.as_posix() not in written and not (target := folder / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Make up for processes that died: put back what one had moved away, sweep what it left."""
    if not folder.parent.is_dir():
        return
    here = f".{folder.name}-{socket.gethostname()}-"
    for path in sorted(folder.parent.iterdir(), reverse=True):  # what was moved away comes first
        process = path.name.removeprefix(here).partition("-")[0]
        if not path.name.startswith(here) or not process.isdigit() or _alive(int(process)):
            continue
        if path.name.endswith(_OLD) and not folder.exists():
            path.rename(folder)
        elif path.name.endswith(_OLD):
            _retire(path, folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
