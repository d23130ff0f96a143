"""The repository: one versioned Icechunk store per area, written by forks, committed by one driver.

Workers get a fork of a session, write their tile's chunks through it and hand it back; the driver
checks that a fork touched exactly chunks of its own tile, merges, writes the ledger and commits.
A reader never sees half a tile, and a dead process costs at most the uncommitted tiles.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import BloscCodec

from engine.errors import ChunkError, IdentityError, LockedError, StoreError
from engine.grid.grid import Grid, Tile, projected_crs
from engine.store.arrays import DAYS, FIRST_DAY, ArraySpec

__all__ = ["Store", "tile_chunks"]

icechunk.set_logs_filter("error")  # one driver commits: its warning about many does not apply

_SPLITS = 480  # setting a reference costs more with every declared split: stay below 500
_CHUNK_REFS = 100_000  # in all cached manifests
_SNAPSHOT_NODES = 400  # groups and arrays in all cached snapshots: the last few
_QUARTER = 92  # days of a manifest along time


class Store:
    """An open store.

    Make one with `Store.create` or `Store.open`; hold `lock` while driving a run.

    Attributes
    ----------
    path : Path
        Folder of the store.
    identity : dict
        What may never change: CRS, anchor, extent, tile, chunks, bands.
    """

    def __init__(self, path: Path, repo: icechunk.Repository) -> None:
        self.path = path
        self._repo = repo
        root = zarr.open_group(self.reader().store, mode="r")
        self.identity: dict[str, Any] = json.loads(str(root.attrs["natmap:identity"]))

    # -- life ---------------------------------------------------------------------------------

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether there is a repository at `path`."""
        return _is_repository(Path(path))

    @classmethod
    def create(cls, path: str | Path, grid: Grid, specs: Iterable[ArraySpec], **more: Any) -> Store:
        """Make a new store with its arrays.

        Parameters
        ----------
        path : folder, must not hold a store yet.
        grid : Grid
        specs : forms of all arrays.
        **more : further JSON values of the identity (bands, say).

        Raises
        ------
        StoreError
            Where the folder cannot be written or is not empty.
        """
        folder, specs = Path(path), list(specs)
        if folder.exists() and any(folder.iterdir()):
            raise StoreError(
                "the store's folder is not empty and holds no store",
                got=folder,
                remedy="name another folder in `store`",
            )
        # Made beside its place and moved there whole: a driver killed in here leaves no half.
        making = folder.with_name(f".{folder.name}.making")
        with _disk_errors(folder):
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            config = icechunk.RepositoryConfig.default()
            # each commit is a snapshot of some hundred kilobytes, and by default all are kept
            config.caching = icechunk.CachingConfig(
                num_chunk_refs=_CHUNK_REFS, num_snapshot_nodes=_SNAPSHOT_NODES
            )
            config.manifest = _manifest(grid, specs)
            repo = icechunk.Repository.create(
                icechunk.local_filesystem_storage(str(making)), config
            )
            session = repo.writable_session("main")
            root = zarr.open_group(session.store, mode="a")
            root.attrs["natmap:identity"] = json.dumps(identity_of(grid, specs, **more))
            _create_arrays(root, grid, specs)
            session.commit("make the store")
            repo.save_config()
            making.rename(folder)
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open an existing store.

        Raises
        ------
        StoreError
            Where there is none, or it is not natmap's.
        """
        folder = Path(path)
        if not _is_repository(folder):
            raise StoreError(
                "there is no store here", got=folder, remedy="`natmap run RECIPE` makes it"
            )
        # The configuration is the store's own: a driver that opens with another one would
        # override the splits without a word.
        try:
            repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
            return cls(folder, repo)
        except (icechunk.IcechunkError, KeyError) as error:
            raise StoreError("the store cannot be opened", got=f"{folder}: {error}") from error

    def require_identity(self, grid: Grid, specs: Iterable[ArraySpec], **more: Any) -> None:
        """Refuse to go on where the store was made for something else.

        Raises
        ------
        IdentityError
            Naming each difference.
        """
        wanted = identity_of(grid, specs, **more)
        arrays = wanted.pop("arrays")
        mine = {k: v for k, v in self.identity.items() if k != "arrays"}
        different = [k for k in sorted(wanted.keys() | mine.keys()) if wanted.get(k) != mine.get(k)]
        different += [
            path for path, form in arrays.items() if self.identity["arrays"].get(path, form) != form
        ]
        if different:
            seen = {k: mine.get(k, self.identity["arrays"].get(k)) for k in different}
            asked = {k: wanted.get(k, arrays.get(k)) for k in different}
            raise IdentityError(
                f"the store was made for another {', '.join(different)}",
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
        _create_arrays(root, grid, missing)
        for spec in missing:
            self.identity["arrays"][spec.path] = _form(grid, spec)
        root.attrs["natmap:identity"] = json.dumps(self.identity)
        session.commit(f"add {', '.join(s.path for s in missing)}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store as its one driver; the lock dies with the process.

        Raises
        ------
        LockedError
            Where another driver is at work.
        """
        lock = FileLock(str(self.path.with_name(self.path.name + ".lock")))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                "another natmap run is at work on this store",
                got=self.path,
                remedy="wait for it, or stop it with Ctrl-C; a killed run frees it by itself",
            ) from None
        try:
            yield
        finally:
            lock.release()

    # -- sessions -----------------------------------------------------------------------------

    def reader(self, tag: str | None = None) -> icechunk.Session:
        """A read-only session on the newest commit, or on a release."""
        if tag is None:
            return self._repo.readonly_session("main")
        try:
            return self._repo.readonly_session(tag=tag)
        except icechunk.IcechunkError:
            known = ", ".join(self.tags()) or "none yet"
            raise StoreError("no such release", got=tag, expected=known) from None

    def writer(self) -> icechunk.Session:
        """A writable session on the newest commit."""
        return self._repo.writable_session("main")

    def tags(self) -> list[str]:
        """Names of all releases."""
        return sorted(self._repo.list_tags())

    def tag(self, name: str) -> None:
        """Name the newest commit as a release."""
        self._repo.create_tag(name, snapshot_id=self.reader().snapshot_id)

    def collect(self, before: datetime | None = None) -> int:
        """Delete chunks that no snapshot refers to; returns the bytes freed.

        Takes the driver's lock: a collection beside a live fork would delete its chunks, and the
        later commit would succeed without them.

        Raises
        ------
        LockedError
            Where a run is at work.
        """
        with self.lock():
            cut = before or datetime.now(UTC)
            return int(self._repo.garbage_collect(cut).bytes_deleted)


# -- form -------------------------------------------------------------------------------------


def identity_of(grid: Grid, specs: Iterable[ArraySpec], **more: Any) -> dict[str, Any]:
    """What may never change in a store, as JSON values."""
    return {
        "crs": grid.crs,
        "anchor": [a % grid.tile_size for a in grid.anchor],
        "tile_size": grid.tile_size,
        "bounds": list(grid.bounds),
        **more,
        "arrays": {spec.path: _form(grid, spec) for spec in specs},
    }


def tile_chunks(spec: ArraySpec, grid: Grid, tile: Tile, part: int = 0) -> set[tuple[int, ...]]:
    """Coordinates of the chunks of an array that are a tile's own."""
    n = grid.pixels(spec.resolution) // spec.chunk
    lead = ((part,) if spec.daily else ()) + (0,) * len(spec.leading)
    return {(*lead, tile.row * n + r, tile.col * n + c) for r in range(n) for c in range(n)}


def check_fork(fork: Any, own: Mapping[str, set[tuple[int, ...]]]) -> None:
    """Make sure that a fork changed chunks of its own tile, and nothing else.

    Two forks that write one chunk lose one of the writes without an error when they are merged;
    this is where it would show.

    Raises
    ------
    ChunkError
    """
    status = fork.status()
    others = {
        "new groups": status.new_groups,
        "new arrays": status.new_arrays,
        "deleted groups": status.deleted_groups,
        "deleted arrays": status.deleted_arrays,
        "changed groups": status.updated_groups,
        "changed arrays": status.updated_arrays,
    }
    foreign: dict[str, Any] = {name: sorted(value) for name, value in others.items() if value}
    for path, chunks in status.updated_chunks.items():
        strange = {tuple(c) for c in chunks} - own.get(path.strip("/"), set())
        if strange:
            foreign[path.strip("/")] = sorted(strange)
    if foreign:
        raise ChunkError(
            "a task changed more than its own tile's chunks; nothing of it is kept",
            got=foreign,
            expected="chunks of " + ", ".join(sorted(own)),
        )


def _form(grid: Grid, spec: ArraySpec) -> dict[str, Any]:
    return {
        "dtype": spec.dtype,
        "resolution": spec.resolution,
        "chunk": spec.chunk_side(grid.pixels(spec.resolution)),
        "dims": list(spec.dims),
        "labels": {dim: list(labels) for dim, labels in spec.leading},
    }


def _manifest(grid: Grid, specs: list[ArraySpec]) -> icechunk.ManifestConfig:
    """Split manifests so that a commit rewrites few references, within what setting one bears."""
    condition, by = icechunk.ManifestSplitCondition, icechunk.ManifestSplitDimCondition
    splitting: dict[Any, dict[Any, int]] = {}
    for spec in specs:
        n = grid.pixels(spec.resolution) // spec.chunk
        down, across = grid.n_rows * n, grid.n_cols * n
        if spec.daily:
            quarters = -(-DAYS // _QUARTER)
            side = max(int((_SPLITS / quarters) ** 0.5), 1)
        else:
            quarters, side = 1, int(_SPLITS**0.5)
        sizes = {by.DimensionName("y"): -(-down // side), by.DimensionName("x"): -(-across // side)}
        if spec.daily:
            sizes[by.DimensionName("time")] = _QUARTER
        splitting[condition.path_matches(f"^/{spec.path}$")] = sizes
    splitting[condition.path_matches("^/ledger/.*")] = {by.DimensionName("time"): _QUARTER}
    return icechunk.ManifestConfig(
        preload=icechunk.ManifestPreloadConfig(max_total_refs=0),
        splitting=icechunk.ManifestSplittingConfig.from_dict(splitting),
    )


def _create_arrays(root: zarr.Group, grid: Grid, specs: Iterable[ArraySpec]) -> None:
    for spec in specs:
        n = grid.pixels(spec.resolution)
        side = spec.chunk_side(n)
        group = root.require_group(spec.group)
        group.create_array(
            spec.name,
            shape=((DAYS,) if spec.daily else ())
            + spec.lead_shape
            + grid.array_shape(spec.resolution),
            chunks=((1,) if spec.daily else ()) + spec.lead_shape + (side, side),
            dtype=spec.dtype,
            fill_value=spec.fill,
            dimension_names=spec.dims,
            # level 1 of bits takes half the time of level 3 of bytes, for 3 % more space
            compressors=BloscCodec(cname=spec.codec, clevel=1, shuffle="bitshuffle"),
            attributes=dict(spec.attrs) | {"grid_mapping": "spatial_ref"},
        )
        _create_coordinates(group, grid, spec)


def _create_coordinates(group: zarr.Group, grid: Grid, spec: ArraySpec) -> None:
    west, _, _, north = grid.bounds
    height, width = grid.array_shape(spec.resolution)
    axes: dict[str, tuple[Any, dict[str, Any]]] = {
        "y": (
            north - (np.arange(height) + 0.5) * spec.resolution,
            {"standard_name": "projection_y_coordinate", "units": "m"},
        ),
        "x": (
            west + (np.arange(width) + 0.5) * spec.resolution,
            {"standard_name": "projection_x_coordinate", "units": "m"},
        ),
    }
    if spec.daily:
        days = {"units": f"days since {FIRST_DAY}", "calendar": "proleptic_gregorian"}
        axes["time"] = (np.arange(DAYS, dtype="int32"), days)
    for dim, labels in spec.leading:
        axes[dim] = (np.asarray(labels), {})
    for dim, (values, attrs) in axes.items():
        if dim in group:
            continue
        if values.dtype.kind == "U":
            # Zarr has no settled type for text; the labels are kept as JSON and put back on
            # opening, the array itself only counts.
            attrs = {"labels": json.dumps([str(v) for v in values])}
            values = np.arange(len(values), dtype="int32")
        coordinate = group.create_array(
            dim, shape=values.shape, dtype=values.dtype, dimension_names=(dim,), attributes=attrs
        )
        coordinate[:] = values
    if "spatial_ref" not in group:
        crs = projected_crs(grid.crs)
        transform = grid.geobox(spec.resolution).transform
        group.create_array(
            "spatial_ref",
            shape=(),
            dtype="int32",
            dimension_names=(),
            attributes={
                **crs.to_cf(),
                "crs_wkt": crs.to_wkt(),
                "GeoTransform": " ".join(repr(float(v)) for v in transform.to_gdal()),
            },
        )


def _is_repository(folder: Path) -> bool:
    return (folder / "refs").is_dir() or (folder / "repo").exists()


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            "the store's folder cannot be written", got=f"{folder}: {error}"
        ) from error
    except icechunk.IcechunkError as error:
        raise StoreError("the store cannot be made", got=f"{folder}: {error}") from error
