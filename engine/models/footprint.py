"""The ground that a model was trained on: where its cells lay, and nothing of what they were."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["FOOTPRINT", "Footprint", "Ground", "read_footprint", "write_footprint"]

FOOTPRINT = "training-footprint.json"
"""File beside a model's card, and in the folder of a product that the model made."""


@dataclass(frozen=True)
class Ground:
    """Cells of one place: centres (n, 2) in a CRS."""

    crs: str
    xy: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Footprint:
    """Where a model was trained.

    Attributes
    ----------
    reach : side of what the model sees of a cell, in metres.
    places : cells by place.
    whole : False where the model started from one whose own footprint is not known.
    """

    reach: float
    places: tuple[Ground, ...]
    whole: bool = True


def write_footprint(folder: Path, found: Footprint) -> None:
    """Write it beside a card."""
    places = [{"crs": g.crs, "xy": np.round(g.xy, 1).ravel().tolist()} for g in found.places]
    told = {"schema": 1, "reach": found.reach, "whole": found.whole, "places": places}
    (folder / FOOTPRINT).write_text(json.dumps(told) + "\n", encoding="utf-8")


def read_footprint(folder: Path) -> Footprint | None:
    """The footprint in a card's or product's folder, None where there is none that can be read."""
    try:
        told = json.loads((folder / FOOTPRINT).read_text(encoding="utf-8"))
        places = [
            Ground(str(p["crs"]), np.array(p["xy"], float).reshape(-1, 2)) for p in told["places"]
        ]
        return Footprint(float(told["reach"]), tuple(places), bool(told["whole"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
