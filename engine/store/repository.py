"""The repository: one versioned Icechunk store per area, written by forks, committed by one driver.

Workers get a fork of a session, write their tile's chunks through it and hand it back; the driver
checks that a fork touched exactly chunks of its own tile, merges, writes the ledger and commits.
A reader never sees half a tile, and a dead process costs at most the uncommitted tiles.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import icechunk
import zarr
from filelock import FileLock, Timeout

from engine.errors import IdentityError, LockedError, StoreError
from engine.grid.grid import Grid
from engine.store.arrays import ArraySpec
from engine.store.damage import making_errors, opening_errors
from engine.store.digests import commit, said_of, told_by
from engine.store.guarantees import require_conditions
from engine.store.layout import (
    create_arrays,
    differences,
    form_of,
    identity_of,
    other_meanings,
    split_manifests,
)
from engine.store.lease import hold
from engine.store.location import Bucket, Folder, Location, location_of
from engine.store.reading import Reader

__all__ = ["VERSION", "Store"]

icechunk.set_logs_filter("error")  # one driver commits: its warning about many does not apply

_CHUNK_REFS = 100_000  # in all cached manifests
_SNAPSHOT_NODES = 400  # groups and arrays in all cached snapshots: the last few
_IDENTITY, _EPOCH, _FORM = "natmap:identity", "natmap:epoch", "natmap:store"  # of the root

VERSION = 2
"""Of stores: names of arrays, form of the ledger, table of runs. Older ones are read."""
ICECHUNK_FORMAT = 1
"""What new stores are made in. Every Icechunk from 1.1 on reads and writes it; format 2 would shut
out Python 3.11, whose last Icechunk is 1. A store outlives an installation."""
_LOCK = "natmap.lock"
_BESIDE = ("items.parquet", "images.parquet")
_NEWER = re.compile(r"uses Icechunk v(\d+) format")


class Store:
    """An open store.

    Make one with `Store.create` or `Store.open`; hold `lock` while driving a run.

    Attributes
    ----------
    place : Folder or Bucket
    identity : dict
        What may never change: CRS, anchor, extent, tile, chunks, bands.
    version : of its form; see `VERSION`.
    """

    def __init__(self, place: Location, repo: icechunk.Repository) -> None:
        self.place = place
        self._repo = repo
        self._epoch: int | None = None
        self._sound: set[str] = set()
        with opening_errors(place):
            root = zarr.open_group(self.reader().store, mode="r")
            self.identity: dict[str, Any] = json.loads(str(root.attrs[_IDENTITY]))
            form: Any = root.attrs.get(_FORM, {"version": 1})
        self.version = int(form["version"])
        if self.version > VERSION:
            raise StoreError(
                "the store was made by a newer natmap",
                got=f"{place}: version {self.version}",
                expected=f"version {VERSION} or older",
                remedy="install that natmap",
            )

    # -- life ---------------------------------------------------------------------------------

    @classmethod
    def exists(cls, where: str | Path | Location) -> bool:
        """Whether there is a store at a place.

        Raises
        ------
        StoreError
            Where the place cannot be looked at.
        """
        place = location_of(where)
        if not place.has_repository():
            return False
        # on object storage nothing can be moved: a driver killed in `create` leaves a beginning
        return isinstance(place, Folder) or _is_whole(_open(place))

    @classmethod
    def create(
        cls, where: str | Path | Location, grid: Grid, specs: Iterable[ArraySpec], **more: Any
    ) -> Store:
        """Make a new store with its arrays.

        Parameters
        ----------
        where : a place that holds no store yet.
        grid : Grid
        specs : forms of all arrays.
        **more : further JSON values of the identity (bands, say).

        Raises
        ------
        StoreError
            Where the place cannot be written or holds something else.
        """
        place, specs = location_of(where), list(specs)
        if isinstance(place, Bucket):
            require_conditions(place)
            with place.errors("written"):
                _fill(_begin(place.storage, grid, specs), grid, specs, more)
            return cls.open(place)
        folder = place.path
        place.require_free()
        # Made beside its place and moved there whole: a driver killed in here leaves no half.
        making = folder.with_name(f".{folder.name}.making")
        with making_errors(folder):
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            storage = icechunk.local_filesystem_storage(str(making))
            _fill(_begin(storage, grid, specs), grid, specs, more)
            making.rename(folder)
        return cls.open(folder)

    @classmethod
    def open(cls, where: str | Path | Location) -> Store:
        """Open an existing store.

        Raises
        ------
        StoreError
            Where there is none, or it is not natmap's.
        """
        place = location_of(where)
        if not place.has_repository():
            raise StoreError(
                "there is no store here", got=place, remedy="`natmap run RECIPE` makes it"
            )
        return cls(place, _open(place))

    def require_current(self) -> None:
        """Refuse to go on with a store of an older form.

        Raises
        ------
        StoreError
        """
        if self.version < VERSION:
            raise StoreError(
                "the store is of an older form, which can be read and published, but not run on",
                got=f"{self.place}: version {self.version}",
                expected=f"version {VERSION}",
                remedy="name a new folder in `store`, or copy it: natmap migrate OLD NEW",
            )

    def require_identity(self, grid: Grid, specs: Iterable[ArraySpec], **more: Any) -> None:
        """Refuse to go on where the store was made for something else.

        Raises
        ------
        IdentityError
            Naming each difference.
        """
        specs = list(specs)
        root = zarr.open_group(self.reader().store, mode="r")
        wanted = identity_of(grid, specs, **more)
        asked, seen = differences(wanted, self.identity, other_meanings(root, specs))
        if asked:
            raise IdentityError(
                f"the store was made for another {', '.join(asked)}",
                got=asked,
                expected=seen,
                remedy="name a new folder in `store`, or put the recipe's old values back",
            )

    def add_arrays(self, grid: Grid, specs: Iterable[ArraySpec]) -> None:
        """Make arrays that the store does not have yet; only before tasks start."""
        missing = [s for s in specs if s.path not in self.identity["arrays"]]
        if not missing:
            return
        session = self.writer()
        root = zarr.open_group(session.store, mode="a")
        create_arrays(root, grid, missing)
        for spec in missing:
            self.identity["arrays"][spec.path] = form_of(grid, spec)
        root.attrs[_IDENTITY] = json.dumps(self.identity)
        commit(session, f"add {', '.join(s.path for s in missing)}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store as its one driver; the right to it dies with the process.

        A folder is held by a lock of the operating system, a bucket by a lease.

        Raises
        ------
        LockedError
            Where another driver is at work.
        """
        if isinstance(self.place, Bucket):
            with hold(self.place) as lease:
                self._enter(lease.epoch)
                try:
                    yield
                finally:
                    self._epoch = None
            return
        # in the folder itself, which is one by whatever names it is reached
        lock = FileLock(str(self.place.path / _LOCK))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                "another natmap run is at work on this store",
                got=self.place,
                remedy="wait for it, or stop it with Ctrl-C; a killed run frees it by itself",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _enter(self, epoch: int) -> None:
        """Commit the driver's epoch: from here on, commits of earlier drivers are refused."""
        with opening_errors(self.place):
            session = self._repo.writable_session("main")
            zarr.open_group(session.store, mode="r+").attrs[_EPOCH] = epoch
            commit(session, f"driver {epoch}")
        self._epoch = epoch

    # -- sessions -----------------------------------------------------------------------------

    def reader(self, tag: str | None = None) -> Reader:
        """A read-only session on the newest commit, or on a release.

        Raises
        ------
        StoreError
            Where there is no such release, or the store cannot be read.
        """
        if tag is not None and tag not in self.tags():
            known = ", ".join(self.tags()) or "none yet"
            raise StoreError("no such release", got=tag, expected=known)
        with opening_errors(self.place):
            repo = self._repo
            session = repo.readonly_session("main" if tag is None else None, tag=tag)
            found = Reader(session, self.place)
            self._require_metadata(found)
            return found

    def is_verified(self, reader: Reader) -> bool | None:
        """Whether a state has a digest; None where no earlier state of the store has.

        A digest lies beside what it is of, and may be lost with it: where commits had one before,
        False is damage. A release of an older natmap stays what it was when a newer one goes on.
        """
        with opening_errors(self.place):
            here = self._repo.lookup_snapshot(reader.snapshot_id)
            if told_by(here) is not None:
                return True
            others = self._repo.ancestry(branch="main")
            earlier = (info for info in others if info.written_at <= here.written_at)
            return False if any(map(told_by, earlier)) else None

    def _require_metadata(self, reader: Reader) -> None:
        """Refuse a state whose metadata or ledger are not those that were committed."""
        if reader.snapshot_id in self._sound:
            return
        told = told_by(self._repo.lookup_snapshot(reader.snapshot_id))
        if told is not None and told != said_of(reader):
            raise StoreError(
                "the store cannot be read: its metadata or its ledger are not as they were written",
                got=f"{self.place}: snapshot {reader.snapshot_id}",
                remedy="bring the store back from a copy",
            )
        self._sound.add(reader.snapshot_id)

    def writer(self) -> icechunk.Session:
        """A writable session on the newest commit.

        Raises
        ------
        LockedError
            Where another driver has taken the store over. One that does so after this is noticed
            by the commit itself, whose base is then no longer the newest.
        """
        session = self._repo.writable_session("main")
        if self._epoch is not None:
            found = zarr.open_group(session.store, mode="r").attrs.get(_EPOCH)
            if found != self._epoch:
                raise LockedError(
                    "another natmap run has taken this store over; what was not committed is lost",
                    got=f"{self.place}: driver {found}, this was {self._epoch}",
                    remedy="this driver was out of reach for too long; the other one continues",
                )
        return session

    def tags(self) -> list[str]:
        """Names of all releases."""
        with opening_errors(self.place):
            return sorted(self._repo.list_tags())

    def files(self) -> Iterator[tuple[str, Path]]:
        """Files beside the store, of the last run and of releases: name, and where to read it."""
        for tag in ("", *(f"release-{tag}." for tag in self.tags())):
            for name in _BESIDE:
                path = self.place.beside(f"{tag}{name}")
                if path is not None:
                    yield f"{tag}{name}", path

    def history(self) -> list[icechunk.SnapshotInfo]:
        """Commits that lead to the newest, which is the first."""
        return list(self._repo.ancestry(branch="main"))

    def tag(self, name: str, snapshot: str | None = None) -> None:
        """Name a commit as a release, by default the newest."""
        with opening_errors(self.place):
            self._repo.create_tag(name, snapshot_id=snapshot or self.reader().snapshot_id)

    def prune(self, before: datetime) -> tuple[int, int]:
        """Expire commits made before a time, and delete what only they refer to; tags stay.

        Takes the driver's lock: a collection beside a live fork would delete its chunks, and the
        later commit would succeed without them.

        Parameters
        ----------
        before : datetime with a time zone

        Returns
        -------
        (commits that were forgotten, bytes that were freed)

        Raises
        ------
        LockedError
            Where a run is at work.
        """
        with self.lock(), opening_errors(self.place):
            gone = self._repo.expire_snapshots(before)
            freed = self._repo.garbage_collect(before)
            return len(gone), int(freed.bytes_deleted)


# -- making and opening -----------------------------------------------------------------------


def _begin(storage: icechunk.Storage, grid: Grid, specs: list[ArraySpec]) -> icechunk.Repository:
    config = icechunk.RepositoryConfig.default()
    # each commit is a snapshot of some hundred kilobytes, and by default all are kept
    config.caching = icechunk.CachingConfig(
        num_chunk_refs=_CHUNK_REFS, num_snapshot_nodes=_SNAPSHOT_NODES
    )
    config.manifest = split_manifests(grid, specs)
    new = icechunk.__version__.partition(".")[0] != "1"  # whose own format is a later one
    more: dict[str, Any] = {"create_version": ICECHUNK_FORMAT} if new else {}
    repo = icechunk.Repository.open_or_create(storage, config, **more)
    repo.save_config()
    return repo


def _fill(
    repo: icechunk.Repository, grid: Grid, specs: list[ArraySpec], more: Mapping[str, Any]
) -> None:
    session = repo.writable_session("main")
    root = zarr.open_group(session.store, mode="a")
    root.attrs[_IDENTITY] = json.dumps(identity_of(grid, specs, **more))
    root.attrs[_FORM] = {"version": VERSION, "icechunk_format": ICECHUNK_FORMAT}
    create_arrays(root, grid, specs)
    commit(session, "make the store")


def _open(place: Location) -> icechunk.Repository:
    # The configuration is the store's own: a driver that opens with another one would override
    # the splits without a word.
    with opening_errors(place):
        try:
            return icechunk.Repository.open(place.storage)
        except icechunk.IcechunkError as error:
            if found := _NEWER.search(str(error)):
                raise StoreError(
                    "the store is in a format that the installed Icechunk cannot read",
                    got=f"{place}: format {found[1]}, Icechunk {icechunk.__version__}",
                    expected=f"format {ICECHUNK_FORMAT}, in which natmap makes its stores",
                    remedy=f"install Icechunk {found[1]} (pip install 'icechunk>={found[1]}'; "
                    "it needs Python 3.12 or newer)",
                ) from error
            raise


def _is_whole(repo: icechunk.Repository) -> bool:
    session = repo.readonly_session("main")
    try:
        return _IDENTITY in zarr.open_group(session.store, mode="r").attrs
    except FileNotFoundError:
        return False
