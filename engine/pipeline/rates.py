"""What a tile costs: by the ledger's sums of earlier runs, else a rough guess."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from engine.errors import StoreError
from engine.grid.grid import Grid
from engine.runs.stage import Stage
from engine.store.ledger import Ledger
from engine.store.repository import Store

__all__ = ["Cost", "Rates", "read_rates"]

_SECONDS = {
    "scenes": 8.0,
    "composite": 6.0,
    "instances": 700.0,
    "scores": 20.0,
    "graphs": 5.0,
    "fused": 0.5,
    "map": 0.5,
    "embedding": 5.0,
}
"""Of a tile (and day) of 16 km, on two cores."""

_SQUARE = 16_000.0**2
_BLOCK = 512  # pixels of a file's block: a tile reads all that it meets, (side / block + 1)^2
_READ = 1.3  # bytes of a Sentinel-2 COG for a pixel of a band
_STORED = 0.6  # bytes stored for one in memory


@dataclass(frozen=True)
class Cost:
    """Of some tiles: worker seconds, bytes of images read, bytes of chunks stored.

    `assumed` names the stages whose cost is a guess.
    """

    seconds: float = 0.0
    read: float = 0.0
    stored: float = 0.0
    assumed: tuple[str, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.read + other.read,
            self.stored + other.stored,
            self.assumed + other.assumed,
        )


@dataclass(frozen=True)
class Rates:
    """Sums of earlier runs by stage (`engine.store.ledger.RATES`), of tiles of one size."""

    sums: Mapping[str, Mapping[str, float]]
    tile_size: float

    def cost(self, stage: Stage, grid: Grid, parts: int, days: int) -> Cost:
        """Of `parts` tiles (tiles and days, where days are kept apart) of a grid.

        `days` are those of the period, for a guess at what a stage reads that keeps none apart.
        """
        if not parts:
            return Cost()
        found = self.sums.get(stage.name)
        if found and found["records"]:
            count = parts / found["records"]
            area = (grid.tile_size / self.tile_size) ** 2
            block = _BLOCK * stage.outputs[0].resolution
            blocks = ((grid.tile_size + block) / (self.tile_size + block)) ** 2
            return Cost(
                count * area * found["seconds"],
                count * blocks * found["bytes_read"],
                count * area * found["bytes_stored"],
            )
        planes = held = 0.0
        for spec in stage.outputs:
            places = 1 if spec.extent == "area" else grid.pixels(spec.resolution) ** 2
            values = places * math.prod(spec.lead_shape)
            held += values * np.dtype(spec.dtype).itemsize
            planes += values if spec.name == "bands" else 0.0
        guess = (
            _SECONDS.get(stage.name, 5.0) / _SQUARE if stage.guess is None else stage.guess / 1e6
        )
        images = not stage.inputs  # nothing of the store
        read = planes * _READ * (1 if stage.daily else days) if images else 0.0
        if stage.reads:
            read = stage.reads * grid.tile_size**2
        return Cost(
            parts * guess * grid.tile_size**2,
            parts * read,
            parts * held * _STORED,
            (stage.name,),
        )


def read_rates(path: str | Path) -> Rates:
    """Rates of another store's runs.

    Raises
    ------
    StoreError
        Where there is none, or nothing has run in it.
    """
    store = Store.open(path)
    reader = store.reader()
    root = zarr.open_group(reader.store, mode="r")
    ledger = Ledger((0, 0), {})
    if "ledger" in root:
        ledger.load(reader, root)
    if not ledger.rates:
        raise StoreError(
            "nothing has run in this store that would tell what a tile costs",
            got=path,
            remedy="name a store in which `natmap run` has finished tiles",
        )
    return Rates(ledger.rates, float(store.identity["tile_size"]))
