"""Classes and reasons: codes, names, colours."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.errors import RecipeError

__all__ = [
    "LCZ",
    "PRECEDENCE",
    "REASON_COLOURS",
    "REASON_TEXTS",
    "UGS",
    "LandClass",
    "NamedClass",
    "Reason",
    "Scale",
    "codes_of",
    "parse_class",
    "parse_colour",
]


class LandClass(NamedTuple):
    """A class of a map: raster code, short label, machine name, title, colour (RRGGBB)."""

    code: int
    label: str
    name: str
    title: str
    colour: str


class NamedClass(BaseModel):
    """A class that a card brings itself: its code in the map, 1 to 254, its name and colour."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: int = Field(ge=1, le=254)
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,49}$")
    colour: str = Field(pattern=r"^[0-9A-Fa-f]{6}$")

    @field_validator("colour", mode="before")
    @classmethod
    def _quoted(cls, value: Any) -> Any:
        if isinstance(value, int | float):
            raise ValueError("put RRGGBB in quotes: YAML takes 006400 for a number")
        return value

    @property
    def title(self) -> str:
        """For people: Low plants of ``low_plants``."""
        return self.name.replace("_", " ").capitalize()


class Scale(NamedTuple):
    """Of a map of continuous values: what its colours stand for.

    Attributes
    ----------
    low, high : values of the first and the last colour; what lies beyond has theirs.
    unit : of the values, "" where they have none.
    colours : RRGGBB, from `low` to `high`, each of an equal step.
    """

    low: float
    high: float
    unit: str
    colours: tuple[str, ...]

    @property
    def classes(self) -> tuple[LandClass, ...]:
        """The steps as classes, from 1; 0 is none."""
        n = len(self.colours)
        bounds = [self.low + k * (self.high - self.low) / n for k in range(n + 1)]
        return tuple(
            LandClass(k, "", f"step_{k}", f"{a:g} to {b:g} {self.unit}".strip(), colour)
            for k, (a, b, colour) in enumerate(
                zip(bounds, bounds[1:], self.colours, strict=False), 1
            )
        )

    def shade(self, values: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.uint8]:
        """The step of each value; 0 where it is nodata or NaN."""
        known = ~np.isnan(values)
        if nodata is not None:
            known &= values != nodata
        place = (np.where(known, values, self.low) - self.low) / (self.high - self.low)
        step = np.clip(np.floor(place * len(self.colours)), 0, len(self.colours) - 1) + 1
        return np.where(known, step, 0).astype(np.uint8)


LCZ: tuple[LandClass, ...] = tuple(
    LandClass(code, label, name, title, colour)
    for code, (label, name, title, colour) in enumerate(
        [
            ("1", "compact_highrise", "Compact high-rise", "8C0000"),
            ("2", "compact_midrise", "Compact mid-rise", "D10000"),
            ("3", "compact_lowrise", "Compact low-rise", "FF0000"),
            ("4", "open_highrise", "Open high-rise", "BF4D00"),
            ("5", "open_midrise", "Open mid-rise", "FF6600"),
            ("6", "open_lowrise", "Open low-rise", "FF9955"),
            ("7", "lightweight_lowrise", "Lightweight low-rise", "FAEE05"),
            ("8", "large_lowrise", "Large low-rise", "BCBCBC"),
            ("9", "sparsely_built", "Sparsely built", "FFCCAA"),
            ("10", "heavy_industry", "Heavy industry", "555555"),
            ("A", "dense_trees", "Dense trees", "006A00"),
            ("B", "scattered_trees", "Scattered trees", "00AA00"),
            ("C", "bush_scrub", "Bush, scrub", "648525"),
            ("D", "low_plants", "Low plants", "B9DB79"),
            ("E", "bare_rock_paved", "Bare rock or paved", "000000"),
            ("F", "bare_soil_sand", "Bare soil or sand", "FBF7AE"),
            ("G", "water", "Water", "6A6AFF"),
        ],
        start=1,
    )
)
"""Local climate zones (Stewart and Oke 2012) in the palette of the published global map."""


UGS: tuple[LandClass, ...] = (
    LandClass(0, "0", "not_green", "Not urban green space", "C8C0B4"),
    LandClass(1, "1", "green", "Urban green space", "33A02C"),
)
"""Urban green space, at 1 m; 255 is nodata."""

_ZENODO = [
    "910613",
    "D9081C",
    "FF0A22",
    "C54F1E",
    "FF6628",
    "FF985E",
    "FDED3F",
    "BBBBBB",
    "FFCBAB",
    "565656",
    "006A18",
    "00A926",
    "628432",
    "B5DA7F",
    "000000",
    "FCF7B1",
    "656BFA",
]
"""The other palette in use, of the global map's archive: classes 1 to 17."""


class Reason(IntEnum):
    """Why a pixel has no data."""

    DATA = 0
    OUTSIDE_AREA = 1
    NO_SCENE = 2
    ALL_CLOUD = 3
    READ_FAILED = 4
    OUTSIDE_MASK = 5
    TOO_FEW_VALID = 6
    NEIGHBOUR_FAILED = 7
    SUSPECT = 8
    QUARANTINED = 9
    NOT_COMPUTED = 255


PRECEDENCE = tuple(Reason(code) for code in (1, 9, 4, 8, 2, 3, 7, 6, 5))
"""Where several reasons hold, the first of these is given."""

REASON_TEXTS = {
    Reason.DATA: "data",
    Reason.OUTSIDE_AREA: "outside the area",
    Reason.NO_SCENE: "no scene",
    Reason.ALL_CLOUD: "all cloud",
    Reason.READ_FAILED: "read failed",
    Reason.OUTSIDE_MASK: "outside the mask",
    Reason.TOO_FEW_VALID: "too few valid pixels",
    Reason.NEIGHBOUR_FAILED: "a neighbouring tile failed",
    Reason.SUSPECT: "radiometry suspect",
    Reason.QUARANTINED: "the tile failed",
    Reason.NOT_COMPUTED: "not computed yet",
}

REASON_COLOURS = {
    Reason.DATA: "FFFFFF",
    Reason.OUTSIDE_AREA: "E8E8E8",
    Reason.NO_SCENE: "7B3294",
    Reason.ALL_CLOUD: "9ECAE1",
    Reason.READ_FAILED: "D7191C",
    Reason.OUTSIDE_MASK: "CCCCCC",
    Reason.TOO_FEW_VALID: "FDAE61",
    Reason.NEIGHBOUR_FAILED: "F46D43",
    Reason.SUSPECT: "E7298A",
    Reason.QUARANTINED: "67000D",
    Reason.NOT_COMPUTED: "000000",
}

_ALIASES = {
    **{c.label: c.code for c in LCZ},
    **{str(c.code): c.code for c in LCZ},
    **{str(90 + c.code): c.code for c in LCZ if c.code > 10},
    "W": 17,
}

_COLOURS = {
    **{colour: code for code, colour in enumerate(_ZENODO, start=1)},
    **{c.colour: c.code for c in LCZ},
}


def parse_class(text: str | int | float) -> int:
    """The code of a class given as 1..17, A..G or 101..107 (W is water).

    Software changes the types of columns, so 6.0 and "6.0" are 6; true is no class.

    Raises
    ------
    RecipeError
    """
    word = str(text).strip().upper()
    if word.startswith("LCZ"):
        word = word[3:].lstrip(" _-")
    whole, point, rest = word.partition(".")
    if point and not rest.strip("0"):
        word = whole
    if len(word) == 2 and word.isdecimal():
        word = word.lstrip("0")  # 06 sorts well
    code = None if isinstance(text, bool) else _ALIASES.get(word)
    if code is None:
        raise RecipeError("unknown LCZ class", got=text, expected="1..17, A..G or 101..107")
    return code


def codes_of(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Codes 1..17 of a raster's values, in which 101..107 stand for 11..17.

    0 where a value says nothing (0, NaN, infinity), -1 where it is no class, fractions among them.
    """
    known = np.isfinite(values) & (values != 0)
    whole = np.where(known, values, 0)
    codes = np.where((whole > 100) & (whole <= 107), whole - 90, whole)
    good = (codes >= 1) & (codes <= len(LCZ)) & (codes == np.floor(codes))
    return np.where(known, np.where(good, codes, -1), 0).astype(np.int64)


def parse_colour(text: str) -> int:
    """The code of the class that a colour (RRGGBB) stands for, in either palette in use.

    Raises
    ------
    RecipeError
    """
    code = _COLOURS.get(text.strip().removeprefix("#").upper())
    if code is None:
        raise RecipeError(
            "not a colour of an LCZ legend",
            got=text,
            expected="RRGGBB of the published global map or of its archive",
        )
    return code
