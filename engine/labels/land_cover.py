"""Which codes of common land cover products are green space, by the recoding of UGS-1m."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import MetricError

__all__ = ["LAND_COVER", "LandCover", "land_cover"]


@dataclass(frozen=True)
class LandCover:
    """A product's codes.

    Attributes
    ----------
    title : of the product.
    green : forest, shrub and grass.
    other : not green: built-up, water, bare, and also crops, wetland, moss and lichen.
    unknown : what says nothing: fill values and clouds.
    """

    title: str
    green: tuple[int, ...]
    other: tuple[int, ...]
    unknown: tuple[int, ...]


_WETLAND = (180, 181, 182, 183, 184, 186, 187)  # of GLC_FCS30D; 185 is mangrove

LAND_COVER = {
    "worldcover": LandCover(
        "ESA WorldCover 10 m, 2020 and 2021",
        (10, 20, 30, 95),
        (40, 50, 60, 70, 80, 90, 100),
        (0,),
    ),
    "esri": LandCover(
        "Esri / Impact Observatory 10 m land cover",
        (2, 3, 6, 11),
        (1, 4, 5, 7, 8, 9),
        (0, 10),
    ),
    "dynamic-world": LandCover(
        "Dynamic World 10 m, band `label`", (1, 2, 5), (0, 3, 4, 6, 7, 8), ()
    ),
    "from-glc10": LandCover("FROM-GLC10, 2017", (20, 30, 40), (10, 50, 60, 70, 80, 90, 100), (0,)),
    "globeland30": LandCover(
        "GlobeLand30, 2000, 2010 and 2020, 30 m",
        (20, 30, 40),
        (10, 50, 60, 70, 80, 90, 100),
        (0, 255),
    ),
    "glc-fcs30": LandCover(
        "GLC_FCS30 and GLC_FCS30D, 30 m",
        (50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92, 120, 121, 122, 130, 185),
        (10, 11, 12, 20, 140, 150, 152, 153, *_WETLAND, 190, 200, 201, 202, 210, 220),
        (0, 250),
    ),
    "clcd": LandCover("CLCD, China, 30 m", (2, 3, 4), (1, 5, 6, 7, 8, 9), (0,)),
}
"""By the name that ``natmap evaluate --land-cover`` takes.

Forest, shrub and grass are green space, all else is not (UGS-1m, section 5.2). Mangroves are
trees: they count wherever a product tells them apart (WorldCover 95, GLC_FCS30D 185). Orchards stay
cropland, sparse vegetation stays bare, as their products have them. Sources:

- WorldCover: product user manual v2.0, table of classes (Zanaga et al. 2022).
- Esri: Karra et al. 2021; both legends, whose codes do not collide: 3 grass and 6 scrub of the
  first edition are 11, rangeland, since 2022. 10 is cloud.
- Dynamic World: Brown et al. 2022, Scientific Data 9, 251.
- FROM-GLC10: Gong et al. 2019, Science Bulletin 64.
- GlobeLand30: Chen et al. 2015, ISPRS Journal 103; tundra (70) is moss and lichen as well. 255 is
  fill, in some editions the open sea.
- GLC_FCS30: Zhang et al. 2021, ESSD 13; wetlands 181 to 187 of GLC_FCS30D: Zhang et al. 2024, ESSD
  16; 250 is fill.
- CLCD: Yang and Huang 2021, ESSD 13.
"""


def land_cover(name: str) -> LandCover:
    """A product by its name.

    Raises
    ------
    MetricError
        Where none has it.
    """
    if name not in LAND_COVER:
        raise MetricError(
            "no such land cover product is known",
            got=name,
            expected=", ".join(sorted(LAND_COVER)),
            remedy="or name the codes that are green space: --green 10,20,30",
        )
    return LAND_COVER[name]
