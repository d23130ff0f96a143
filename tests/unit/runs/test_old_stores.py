"""A store made before stages had cells of their own is continued: nothing in it is stale.

The digests below were taken from the code of commit a255493. Whoever changes one makes every tile
of every store stale, or has it refused.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from support.toys import Toy, blob

from engine.cube.access import PLAIN
from engine.grid import Area, Support
from engine.products.composite import composite_stages
from engine.products.sources import SceneSource
from engine.recipes.sections import Cube, GridChoice
from engine.runs.schedule import Schedule
from engine.store.layout import identity_of
from engine.store.ledger import Ledger


def digest(*texts: bytes) -> str:
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


def test_support_tells_tiles_apart_as_before() -> None:
    found = {}
    for name, area, cell in (
        ("zones", blob(), 100.0),
        ("cube", blob(), 10.0),
        ("green", Area(blob().geometry.buffer(75.0), blob().crs), 100.0),
    ):
        grid = Toy(blob()).grid
        support = Support(area, grid, cell)
        found[name] = digest(
            *(
                support.fingerprint(tile, reach)
                for tile in grid.tiles()
                for reach in (0.0, 20.0, 100.0, 120.0, 512.0)
            ),
            *(support.meets(reach).tobytes() for reach in (0.0, 20.0, 120.0)),
        )
    assert found == {
        "zones": "d15597ae39eb6351",
        "cube": "0039197440630e3a",
        "green": "35223abea3c89777",
    }


def test_marks_of_a_toy_are_as_before() -> None:
    """Fingerprints with all their parts, of every stage and tile, before anything ran."""
    toy = Toy(blob(), anchor=(30.0, 70.0))
    stages = toy.stages()
    ledger = Ledger(toy.grid.shape, {stage.name: stage.daily for stage in stages})
    schedule = Schedule(stages, toy.support, ledger)
    marks = [
        (name, str(tile), [list(map(int, mark)) for _, mark, _ in schedule._stale(name, tile)])
        for name in schedule.stages
        for tile in toy.grid.tiles()
    ]
    assert digest(json.dumps(marks).encode()) == "1bca0cc8a5944bb0"
    needed = [np.asarray(schedule.status[name] > 0).tobytes() for name in schedule.stages]
    assert digest(*needed) == "adfcdd0b19062df4"


def test_the_identity_of_a_toy_is_as_before() -> None:
    toy = Toy(blob())
    specs = [spec for stage in toy.stages() for spec in stage.outputs]
    identity = identity_of(toy.grid, specs, band_names=["B02"])
    assert digest(json.dumps(identity, sort_keys=True).encode()) == "44edbca674ce8663"


class _Scenes(SceneSource):
    """Of no catalogue: stages are built before one is searched."""

    def __init__(self) -> None:
        self.access = PLAIN


def test_composites_without_periods_are_as_before() -> None:
    """Digests from the code of commit c1719da, before cubes had periods."""
    found = {}
    grid = GridChoice(crs="EPSG:32633", tile=160)
    for keep in (True, False):
        stages = composite_stages(Cube(keep_scenes=keep), grid, ("B02", "B04"), _Scenes())
        told = [
            [
                stage.name,
                stage.fingerprint.hex(),
                [[i.stage, i.halo] for i in stage.inputs],
                [repr(spec) for spec in stage.outputs],
            ]
            for stage in stages
        ]
        found[keep] = digest(json.dumps(told).encode())
    assert found == {True: "4cc33e3ccf225ad5", False: "05ce064e8ff7f72b"}
