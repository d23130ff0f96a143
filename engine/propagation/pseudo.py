"""What a propagation is given and gives: labels, cells, the table of pseudo-labels, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import LabelError
from engine.propagation.detection import Detection
from engine.propagation.features import Features, blocks_of, taken
from engine.propagation.inputs import require_features, require_labels

__all__ = ["Cells", "Found", "Labels", "Propagated", "Report", "empty_report", "in_table"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_SIDE = 320.0  # metres
_TOLD = 0.5  # share of a class's cells that must be rejected for it to count as detectable


@dataclass(frozen=True)
class Labels:
    """Labelled cells of all source cities.

    Attributes
    ----------
    features : float32 (n, columns), on the pool's scale.
    codes : integers (n,)
    city : integers (n,)
    xy : float64 (n, 2)
        Centres in metres of the cells' CRS; NaN for labels elsewhere.
    side : of a labelled patch, in metres.
    """

    features: npt.NDArray[Any]
    codes: npt.NDArray[Any]
    city: npt.NDArray[Any]
    xy: Floats
    side: float = _SIDE

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def counts(self) -> dict[int, int]:
        """Labels of each class that has some."""
        codes, counts = np.unique(self.codes, return_counts=True)
        return dict(zip(codes.tolist(), counts.tolist(), strict=True))

    def take(self, rows: Ints) -> Labels:
        """Some of them."""
        return replace(
            self,
            features=self.features[rows],
            codes=self.codes[rows].astype(np.int64),
            city=self.city[rows],
            xy=self.xy[rows],
        )

    def check(self, classes: Sequence[int]) -> None:
        """Refuse what cannot be propagated.

        Raises
        ------
        LabelError
        """
        x = require_features(self.features, "labelled features")
        require_labels(self.codes, classes, len(x))
        for what, shape, expected in (
            ("cities", np.shape(self.city), (len(x),)),
            ("centres", np.shape(self.xy), (len(x), 2)),
        ):
            if shape != expected:
                raise LabelError(
                    f"labels and their {what} do not go together", got=shape, expected=expected
                )
        _require_side(self.side, "a labelled patch")


@dataclass(frozen=True)
class Cells:
    """Cells to be labelled.

    Attributes
    ----------
    ids : int64 (n,), each once.
    features : float32 (n, columns), on the pool's scale, read block by block; may be NaN in cells
        that are known to be water or of OpenStreetMap.
    xy : float64 (n, 2), centres in metres.
    water : float64 (n,), share of a cell's pixels in the state water; None: not known.
    osm : integers (n,), class that OpenStreetMap gives a cell, 0 for none; None: not asked.
    held : float64 (m, 4), blocks that validate or test: left, bottom, right, top.
    side : of a cell, in metres.
    """

    ids: Ints
    features: Features
    xy: Floats
    water: Floats | None = None
    osm: npt.NDArray[Any] | None = None
    held: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    side: float = _SIDE

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Ints) -> Cells:
        """Some of them."""
        return replace(
            self,
            ids=self.ids[rows],
            features=taken(self.features, rows),
            xy=self.xy[rows],
            water=None if self.water is None else self.water[rows],
            osm=None if self.osm is None else self.osm[rows],
        )

    def held_in_memory(self) -> Cells:
        """The same with all features read."""
        return replace(self, features=self.features[:])

    def require_features(self, asked: npt.NDArray[np.bool_]) -> None:
        """Refuse infinite features, and missing ones of cells that a head is asked about.

        Parameters
        ----------
        asked : bool (n,)

        Raises
        ------
        LabelError
        """
        for rows in blocks_of(self.features):
            block = self.features[rows]
            left_out = np.isnan(block) & ~asked[rows, None]
            shown = np.where(left_out, 0, block)
            require_features(shown, "features of cells", first=rows.start)

    def check(self, columns: int, classes: Sequence[int]) -> None:
        """Refuse cells that labels of so many columns cannot be propagated to.

        Raises
        ------
        LabelError
        """
        if len(self.features.shape) == 2:
            require_features(self.features[:0], "features of cells", columns)
        n = len(self.ids)
        parts: dict[str, tuple[Any, tuple[int, ...]]] = {
            "centres": (self.xy, (n, 2)),
            "shares of water": (self.water, (n,)),
            "classes of OpenStreetMap": (self.osm, (n,)),
            "held-out blocks": (self.held, (len(self.held), 4)),
        }
        shapes = {
            what: (np.shape(values), expected)
            for what, (values, expected) in parts.items()
            if values is not None
        }
        shapes["features"] = (self.features.shape, (n, columns))
        for what, (got, expected) in shapes.items():
            if got != expected:
                raise LabelError(
                    f"cells and their {what} do not go together", got=got, expected=expected
                )
        if len(np.unique(self.ids)) != n:
            raise LabelError("some cells have the same id", got=f"{n} cells, some ids twice")
        if not np.isfinite(self.xy).all() or not np.isfinite(self.held).all():
            raise LabelError(
                "cells or held-out blocks have no finite coordinates",
                got="coordinates of NaN or inf",
            )
        if self.water is not None and not ((self.water >= 0) & (self.water <= 1)).all():
            raise LabelError(
                "shares of water are not shares",
                got=f"{np.nanmin(self.water):g} to {np.nanmax(self.water):g}",
                expected="0 to 1",
            )
        if self.osm is not None and n:
            require_labels(self.osm, (0, *classes), n, least=0)
        _require_side(self.side, "a cell")


def _require_side(side: float, what: str) -> None:
    if not side > 0 or not np.isfinite(side):
        raise LabelError(f"{what} has no side", got=side, expected="metres, over 0")


@dataclass(frozen=True)
class Report:
    """What a propagation did.

    Attributes
    ----------
    labels, used : labels given, and those that took part after the cap by class and city.
    labelled : classes that have labels.
    cells : that were to be labelled.
    direct : cells labelled by `mask` and by `osm`.
    reason : why there are no pseudo-labels; empty where they were asked of the head.
    gains, gain, error : change of macro-F1 on each city that was left out, mean, standard error.
    limit : least confidence that was kept; None where no confidence reaches the precision.
    held_out_precision : of labels of left-out cities that would have been kept.
    removed : cells that each guard removed, in the order in which they are asked.
    pseudo : pseudo-labels of each class.
    barren : classes with labels, but without pseudo-labels.
    detection : of each class, whether its cells would be told as novel if it had no label.
    """

    labels: int
    used: int
    labelled: tuple[int, ...]
    cells: int
    direct: Mapping[str, int]
    reason: str
    gains: tuple[float, ...]
    gain: float
    error: float
    limit: float | None
    held_out_precision: float
    removed: Mapping[str, int]
    pseudo: Mapping[int, int]
    barren: tuple[int, ...]
    detection: Mapping[int, Detection]

    @property
    def undetectable(self) -> tuple[int, ...]:
        """Classes of which less than half would be detected as novel: if the area has such a class
        and the labels do not, its cells get pseudo-labels of other classes."""
        return tuple(code for code, found in self.detection.items() if found.rejected < _TOLD)

    @property
    def unknown(self) -> tuple[int, ...]:
        """Classes with labels of which nothing can be said: too few cities or classes beside."""
        return tuple(code for code in self.labelled if code not in self.detection)


def empty_report() -> Report:
    """A report of nothing yet."""
    nan = float("nan")
    return Report(0, 0, (), 0, {}, "", (), nan, nan, None, nan, {}, {}, (), {})


@dataclass(frozen=True)
class Propagated:
    """A propagation's result.

    Attributes
    ----------
    table : pyarrow.Table
        One row for each cell that has a class: `cell` int64, `code` uint8, `confidence` float32,
        `votes` (share of the nearest labels for each class, float32), `distance` float64, `energy`
        float64, `source` ("pseudo", "mask", "osm"). Null where a source has none.
    report : Report
    """

    table: pa.Table
    report: Report


@dataclass(frozen=True)
class Found:
    """What a propagation found of cells, a row for each.

    Attributes
    ----------
    codes : int64 (n,), 0 where it has no pseudo-label.
    confidence : float64 (n,), the head's.
    votes : float32 (cells with a pseudo-label, classes), shares of the nearest labels.
    distance : float64 (n,), their mean.
    energy : float64 (n,), NaN without a linear head.
    """

    codes: Ints
    confidence: Floats
    votes: npt.NDArray[np.float32]
    distance: Floats
    energy: Floats

    def spread(self, count: int, rows: Ints) -> Found:
        """The same as these rows, ascending, of a longer table."""
        whole = {}
        for name in ("codes", "confidence", "distance", "energy"):
            values = getattr(self, name)
            whole[name] = np.zeros(count, values.dtype)
            whole[name][rows] = values
        return replace(self, **whole)


def in_table(
    cells: Cells,
    direct: Ints,
    source: npt.NDArray[Any],
    found: Found | None,
    classes: Sequence[int],
) -> pa.Table:
    """The table of a propagation (see `Propagated`), in the order of the cells.

    Parameters
    ----------
    direct, source : code and source of cells that no head was asked about, 0 and "" elsewhere.
    found : None where no head was asked at all.
    classes : codes of the columns of votes.
    """
    codes = direct.copy()
    asked = np.zeros(len(cells), bool) if found is None else (direct == 0) & (found.codes > 0)
    if found is not None:
        codes[asked] = found.codes[asked]
    rows = np.flatnonzero(codes)
    here = asked[rows]

    def column(name: str, kind: pa.DataType) -> pa.Array:
        values = np.zeros(len(rows)) if found is None else getattr(found, name)[rows]
        return pa.array(values, kind, mask=~here | np.isnan(values))

    votes: list[Any] = [None] * len(rows)
    if found is not None:
        for row, shares in zip(np.flatnonzero(here).tolist(), found.votes, strict=True):
            votes[row] = shares
    return pa.table(
        {
            "cell": pa.array(cells.ids[rows], pa.int64()),
            "code": pa.array(codes[rows], pa.uint8()),
            "confidence": column("confidence", pa.float32()),
            "votes": pa.array(votes, pa.list_(pa.float32(), len(classes))),
            "distance": column("distance", pa.float64()),
            "energy": column("energy", pa.float64()),
            "source": pa.array(np.where(here, "pseudo", source[rows]).astype(str), pa.string()),
        }
    )
