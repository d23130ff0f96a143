"""The section `features`: what it may say, the year that is taken, what is told of gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from pydantic import TypeAdapter, ValidationError
from support.ground import ANCHOR, NORTH, WEST, cells, opened, write_raster

from engine.features.opening import nearest_year
from engine.recipes.features import Features

AT = Affine(10, 0, WEST, 0, -10, NORTH)


@pytest.mark.parametrize(
    ("years", "wanted", "taken"),
    [([2018, 2021], 2020, 2021), ([2018, 2022], 2020, 2018), ([2021], 1990, 2021)],
)
def test_the_nearest_year(years: list[int], wanted: int, taken: int) -> None:
    assert nearest_year(years, wanted) == taken
    assert nearest_year(years[::-1], wanted) == taken


def test_the_files_of_the_nearest_year_are_read_and_recorded(tmp_path: Path) -> None:
    box = cells(4, 4)
    paths = {
        year: str(write_raster(tmp_path / f"{year}.tif", np.full((4, 4), year - 2000.0), AT))
        for year in (2015, 2019)
    }
    told = {"name": "h", "kind": "heights", "years": paths, "licence": "CC0-1.0"}
    (source,) = opened(box, told, year=2018)
    assert (source.reader.read(box, ANCHOR).values[0] == 19).all()
    (origin,) = source.origins
    assert (origin.year, origin.place, origin.licence) == (2019, paths[2019], "CC0-1.0")
    assert origin.size == Path(paths[2019]).stat().st_size
    assert source.parameters["here"]["year"] == 2019
    assert source.notes == ("h: of 2019, wanted 2018, there is 2015, 2019",)
    (other,) = opened(box, told, year=2016)
    assert other.parameters["here"]["year"] == 2015


def test_what_files_do_not_cover_is_said(tmp_path: Path) -> None:
    box = cells(20, 20)
    half = write_raster(tmp_path / "half.tif", np.ones((20, 10), np.float32), AT)
    far = write_raster(
        tmp_path / "far.tif", np.ones((4, 4), np.float32), Affine(10, 0, 3e5, 0, -10, 4e6)
    )
    told = {"kind": "heights", "year": 2020}
    whole = write_raster(tmp_path / "w.tif", np.ones((20, 20), np.float32), AT)
    found = opened(
        box,
        told | {"name": "a", "path": str(half)},
        told | {"name": "b", "path": str(far)},
        told | {"name": "c", "path": str(whole)},
    )
    assert "about 50% of the area" in found[0].notes[0]
    assert "no part of the area" in found[1].notes[0]
    assert found[2].notes == ()
    nothing = found[1].reader.read(box, ANCHOR)
    assert (nothing.known == 0).all()
    assert np.isnan(nothing.values).all()


GOOD = {"name": "h", "kind": "heights", "path": "h.tif", "year": 2020}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([GOOD, GOOD], "named twice"),
        ([GOOD | {"kind": "hights"}], "none of values"),
        ([GOOD | {"name": "H.x"}], "pattern"),
        ([GOOD | {"year": None}], "year"),
        ([GOOD | {"years": {2020: "h.tif"}}], "exactly one"),
        ([GOOD | {"range": [5, 5]}], "low below high"),
        ([GOOD | {"range": [0, float("inf")]}], "finite"),
        ([GOOD | {"absent": -5}], "not within range"),
        ([GOOD | {"statistics": ["mean", "mean"]}], "each one once"),
        ([GOOD | {"statistics": ["median"]}], "mean"),
        ([GOOD | {"band": 0}], "greater than"),
        ([GOOD | {"path": []}], "at least 1"),
        ([GOOD | {"kind": "values"}], "range"),
        ([GOOD | {"kind": "classes", "classes": {"known": [1]}}], "mask is called"),
        ([GOOD | {"kind": "classes", "classes": {"a": []}}], "no values"),
        ([GOOD | {"kind": "polygons", "field": "use"}], "go together"),
        ([], "at least 1"),
    ],
)
def test_sections_that_are_refused(told: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        TypeAdapter(Features).validate_python(told)
