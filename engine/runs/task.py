"""One tile of one stage on a worker: read, compute, write through the fork, digest."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from engine.accounting import Account, Pool, Spent, Step, spent
from engine.errors import GridError, RunError
from engine.grid.area import parts_of, repeat
from engine.grid.grid import Grid, Tile
from engine.recipes.sections import Device
from engine.runs.failures import blaming_gpus
from engine.runs.memory import peak_megabytes
from engine.runs.stage import Output, Part, pixels
from engine.store.arrays import ArraySpec
from engine.store.chunks import Changes, changes_of, has_blank_chunk, stored_bytes
from engine.store.ledger import RECORD, SIDES, Flag, Mark, State, digest_of

__all__ = ["TileResult", "TileTask", "Tiles", "run_tile"]


@dataclass(frozen=True)
class Tiles:
    """The tiles of a stage of which all are read.

    Attributes
    ----------
    made : bool (rows, cols)
        Those that are there.
    of : how many are wanted.
    """

    made: npt.NDArray[np.bool_]
    of: int

    @property
    def count(self) -> int:
        """How many are there."""
        return int(self.made.sum())


@dataclass(frozen=True)
class TileTask:
    """All that a worker is told about one tile of one stage.

    Attributes
    ----------
    stage : str
    parts : tuple of Part
        The stale ones only.
    marks : tuple of Mark
        One for each part.
    input_parts : mapping of upstream stage to part indices
        The days that exist, for an upstream stage that keeps days apart.
    blank : mapping of upstream stage to tiles
        Neighbours that failed; they read as nodata.
    support : packed bits or None
        Where the stage is defined, in cells of `cell` metres; None: on the whole tile.
    tiles : mapping of upstream stage to Tiles
        Where all tiles are read.
    degraded : bool
        Some of these are lacking, or a result that is read says so of itself.
    gpu : bool
        It is sent to a worker that offers a GPU.
    """

    stage: str
    kernel: Callable[[TileTask], Iterable[Output]]
    outputs: tuple[ArraySpec, ...]
    grid: Grid
    tile: Tile
    parts: tuple[Part, ...]
    marks: tuple[Mark, ...]
    attempt: int = 0
    input_parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    blank: Mapping[str, tuple[Tile, ...]] = field(default_factory=dict)
    forms: Mapping[str, ArraySpec] = field(default_factory=dict)
    support: bytes | None = None
    cell: float = 100.0
    border: float = 0.0
    tiles: Mapping[str, Tiles] = field(default_factory=dict)
    degraded: bool = False
    gpu: bool = False

    def __getstate__(self) -> dict[str, Any]:
        own = ("_root", "mask_cells", "devices")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def bind(self, root: zarr.Group) -> None:
        """Give the task the arrays that it reads; called once, by the worker."""
        object.__setattr__(self, "_root", root)

    # -- what kernels use ---------------------------------------------------------------------

    def read(
        self,
        path: str,
        halo: int = 0,
        part: int | Sequence[int] = 0,
        rows: slice | None = None,
    ) -> npt.NDArray[Any]:
        """Read an upstream array around the tile.

        Parameters
        ----------
        path : str
            ``group/name`` of an array of an input stage.
        halo : int
            Pixels each side. Beyond the grid, and where a neighbour failed, it reads as fill.
        part : int or sequence of int
            Position on the time axis, for a daily array; of several, time comes first.
        rows : slice, optional
            Rows of the padded window to read, for kernels that work in strips.

        Returns
        -------
        ndarray (..., y, x)
            Of height and width n + 2 halo, or the rows asked for. Of a result of all of the area:
            the array as it is, without y and x.
        """
        spec = self.forms[path]
        with spent("load") as loading:
            found = self._read(path, spec, halo, part, rows)
            loading.size = found.nbytes
        return found

    def _read(
        self,
        path: str,
        spec: ArraySpec,
        halo: int,
        part: int | Sequence[int],
        rows: slice | None,
    ) -> npt.NDArray[Any]:
        if spec.extent == "area":
            found: Any = self._root[path]  # type: ignore[attr-defined]
            return np.asarray(found[...])
        parts = [part] if isinstance(part, int) else list(part)
        window = self.grid.window(self.tile, spec.resolution, halo)
        height, width = window.shape
        first, last, _ = (rows or slice(None)).indices(height)
        across = window.cols.stop - window.cols.start
        north, _, west, _ = window.pad
        top, bottom = (  # rows of the grid's array that the strip meets
            max(window.rows.start + first - north, window.rows.start),
            min(window.rows.start + last - north, window.rows.stop),
        )
        shape = (*spec.lead_shape, last - first, width)
        at = top - window.rows.start + north - first
        here = np.s_[..., at : at + bottom - top, west : west + across]
        whole = shape[-2:] == (bottom - top, across)
        out = np.empty((len(parts), *shape), spec.dtype)
        if not whole:
            out[...] = spec.fill
        if bottom > top:
            array: Any = self._root[path]  # type: ignore[attr-defined]
            every = (slice(None),) * len(spec.leading)
            for plane, day in zip(out, parts, strict=True):
                index = ((day,) if spec.daily else ()) + every
                plane[here] = array[(*index, slice(top, bottom), window.cols)]
            inner = out[here]
            for tile in self.blank.get(spec.group, ()):
                away = self.grid.window(tile, spec.resolution)
                inner[
                    ...,
                    max(away.rows.start - top, 0) : max(away.rows.stop - top, 0),
                    max(away.cols.start - window.cols.start, 0) : max(
                        away.cols.stop - window.cols.start, 0
                    ),
                ] = spec.fill
        return out[0] if isinstance(part, int) else out

    def read_any(self, path: str, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """A window of an upstream array of which all tiles are read: (..., y, x).

        Where a tile is not there (`tiles`), it holds what was once written, or fill.
        """
        array: Any = self._root[path]  # type: ignore[attr-defined]
        with spent("load") as loading:
            found = np.asarray(array[..., rows, cols])
            loading.size = found.nbytes
        return found

    @property
    def square_km(self) -> float:
        """Ground on which the stage is defined on the tile; 0 of a result of all of the area."""
        if all(spec.extent == "area" for spec in self.outputs):
            return 0.0
        mask = self.mask_cells
        cells = self.grid.pixels(self.cell) ** 2 if mask is None else int(mask.sum())
        return cells * self.cell**2 / 1e6

    def device(self, asked: Device) -> Device:
        """The device to ask for: a GPU that the worker offers is one that must be there."""
        return "cuda" if self.gpu and asked == "auto" else asked

    @cached_property
    def devices(self) -> set[str]:
        """The kinds of devices that networks ran on; kernels add theirs."""
        return set()

    @cached_property
    def mask_cells(self) -> npt.NDArray[np.bool_] | None:
        """Where the stage is defined, bool (y, x) in cells; None: everywhere."""
        if self.support is None:
            return None
        n = self.grid.pixels(self.cell)
        bits = np.unpackbits(np.frombuffer(self.support, np.uint8), count=n * n)
        return bits.reshape(n, n).astype(bool)

    def defined(self, resolution: float) -> npt.NDArray[np.bool_] | None:
        """Where the stage is defined, bool (y, x) in pixels of `resolution`; None: everywhere.

        Raises
        ------
        GridError
            Where the stage's cells are no whole number of these pixels.
        """
        factor = parts_of(self.cell, resolution)
        if factor is None:
            raise GridError(
                f"stage {self.stage} does not say where pixels of this size are defined",
                got=f"pixels of {resolution:g} m, cells of {self.cell:g} m",
                expected="pixels of which a cell is a whole number",
                remedy="a stage of other cells says so: Stage(cell=...)",
            )
        return None if self.mask_cells is None else repeat(self.mask_cells, factor)


@dataclass(frozen=True)
class TileResult:
    """What a worker hands back: the fork with the chunks it wrote, and the ledger's records.

    Attributes
    ----------
    spent : what each step of the work took.
    cpu : CPU seconds, of all threads.
    megabytes : the most memory that the worker has had so far.
    worker : its host and process.
    square_km : ground on which the stage is defined, halos downstream included; of several days
        as often. 0 of a result of all of the area.
    devices : kinds of devices that networks ran on.
    """

    stage: str
    tile: Tile
    fork: Any
    changes: Changes
    records: tuple[tuple[int, bytes], ...]
    note: str | None
    seconds: float
    bytes_read: int
    bytes_written: int
    spent: Mapping[Step, Spent] = field(default_factory=dict)
    cpu: float = 0.0
    megabytes: int = 0
    square_km: float = 0.0
    worker: str = ""
    devices: tuple[str, ...] = ()


def run_tile(task: TileTask, fork: Any) -> TileResult:
    """Run a kernel on its tile and write what it yields; this is the Dask task.

    Parameters
    ----------
    task : TileTask
    fork : icechunk.ForkSession
        Of a snapshot in which all inputs are committed.

    Returns
    -------
    TileResult

    Raises
    ------
    DeviceError
        Where the worker's GPU fails, which is no fault of the tile; it says which worker.
    """
    began = time.perf_counter()
    account = Account()
    with account.open(), blaming_gpus():
        records, notes, fetched, changes, stored = _run(task, fork)
    seconds = time.perf_counter() - began
    account.add("write", size=stored)
    return TileResult(
        task.stage,
        task.tile,
        fork,
        changes,
        tuple((part, _stamp(raw, seconds / len(records))) for part, raw in records),
        "; ".join(notes) or None,
        seconds,
        fetched,
        stored,
        account.steps(seconds),
        account.cpu,
        int(peak_megabytes()),
        task.square_km * len(records),
        f"{socket.gethostname()}:{os.getpid()}",
        tuple(sorted(task.devices)),
    )


def _run(task: TileTask, fork: Any) -> tuple[list[tuple[int, bytes]], list[str], int, Changes, int]:
    """Records, notes, bytes of images that were read, changes, bytes that were stored."""
    root = zarr.open_group(fork.store, mode="r+")
    task.bind(root)
    expected = dict(zip((p.index for p in task.parts), task.marks, strict=True))
    records: list[tuple[int, bytes]] = []
    notes: list[str] = []
    fetched = 0

    def finish(output: Output, mark: Mark) -> None:
        """Write an output and note its record."""
        with spent("write"):
            write(output, mark)

    def write(output: Output, mark: Mark) -> None:
        arrays = {spec.path: _finish(task, spec, output) for spec in task.outputs}
        for spec in task.outputs:
            places: tuple[slice, ...] = ()
            if spec.extent != "area":
                window = task.grid.window(task.tile, spec.resolution)
                places = window.rows, window.cols
            lead = ((output.part,) if spec.daily else ()) + (slice(None),) * len(spec.leading)
            # zarr's own search for chunks of nothing but fill costs more than compressing
            full = not has_blank_chunk(arrays[spec.path], spec)
            array: Any = root[spec.path]
            array = array.with_config({"write_empty_chunks": full})
            array[(*lead, *places)] = arrays[spec.path]
        record = np.zeros((), RECORD)
        for name, value in mark._asdict().items():
            record[name] = value
        record["state"] = State.DONE
        degraded = task.degraded or any(task.blank.values())
        flags = output.flags | (Flag.DEGRADED if degraded else Flag(0))
        record["flags"] = flags | (Flag.GPU if task.devices - {"cpu"} else Flag(0))
        record["attempts"] = min(task.attempt + 1, 255)
        for name, value in _digests(task, arrays).items():
            record[name] = value
        if output.note:
            notes.append(output.note)
        records.append((output.part, record.tobytes()))

    # One output is compressed and written while the kernel makes the next; never more than one,
    # so that memory holds two.
    with Pool(max_workers=1) as pool:
        behind: Future[None] | None = None
        for output in task.kernel(task):
            if behind is not None:
                behind.result()
            fetched += output.bytes_read
            behind = pool.submit(finish, output, expected.pop(output.part))
        if behind is not None:
            behind.result()
    if expected:
        raise RunError(
            f"the kernel of stage {task.stage} left out parts", got=sorted(expected), expected=[]
        )
    with spent("write"):
        changes = changes_of(fork)
        stored = stored_bytes(fork, changes, (spec.path for spec in task.outputs))
    return records, notes, fetched, changes, stored


def _finish(task: TileTask, spec: ArraySpec, output: Output) -> npt.NDArray[Any]:
    values = np.asarray(output.arrays[spec.path])
    shape = spec.lead_shape
    if spec.extent != "area":
        shape = (*shape, *(task.grid.pixels(spec.resolution),) * 2)
    if values.shape != shape or values.dtype != np.dtype(spec.dtype):
        raise RunError(
            f"the kernel of stage {task.stage} made another {spec.path}",
            got=f"{values.dtype} {values.shape}",
            expected=f"{spec.dtype} {shape}",
        )
    defined = task.defined(spec.resolution) if spec.extent == "pixels" else None
    if defined is not None and not defined.all():
        values = np.where(
            defined,
            values,
            np.asarray(spec.fill if spec.outside is None else spec.outside, values.dtype),
        )
    return np.asarray(values, order="C")  # which leaves a single number without dims


def _digests(task: TileTask, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, int]:
    """Digests of decoded values: the whole tile, and the strips that neighbours read."""
    strips: dict[str, list[npt.NDArray[Any]]] = {side: [] for side in SIDES}
    for spec in task.outputs if task.border else ():
        values = arrays[spec.path]
        n = values.shape[-1]
        width = min(pixels(task.border, spec.resolution), n)
        strips["north"].append(np.ascontiguousarray(values[..., :width, :]))
        strips["south"].append(np.ascontiguousarray(values[..., n - width :, :]))
        strips["west"].append(np.ascontiguousarray(values[..., :width]))
        strips["east"].append(np.ascontiguousarray(values[..., n - width :]))
    digest = digest_of(arrays[spec.path] for spec in task.outputs)
    return {"digest": digest, **{side: digest_of(parts) for side, parts in strips.items()}}


def _stamp(raw: bytes, seconds: float) -> bytes:
    record = np.frombuffer(bytearray(raw), RECORD)[0]
    record["seconds"] = seconds
    record["finished"] = int(time.time())
    record["megabytes"] = min(int(peak_megabytes()), 65535)
    return bytes(record.tobytes())
