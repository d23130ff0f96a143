"""LCZ: scenes, composite (scores, map follow) - halos, arrays and parameters of each stage."""

from __future__ import annotations

from collections.abc import Callable

from engine.cube.clouds import NO_SCL, READ_FAILED
from engine.cube.radiometry import ATTRS
from engine.items import band_name
from engine.legend import Reason
from engine.pipeline.items import ItemIndex
from engine.pipeline.kernels import ComposeScenes, ComposeUnread, ReadScenes
from engine.recipe import Recipe
from engine.runs.stage import Input, Stage
from engine.store.arrays import ArraySpec

__all__ = ["cube_stages"]

_SCL_ATTRS = {
    "long_name": "scene classification of the item that supplied the pixel",
    "flag_values": [READ_FAILED, NO_SCL],
    "flag_meanings": "read_failed item_without_scl",
}
_REASON_ATTRS = {
    "flag_values": [int(r) for r in Reason],
    "flag_meanings": " ".join(r.name.lower() for r in Reason),
}


def cube_stages(
    recipe: Recipe, bands: tuple[str, ...], index: ItemIndex, sign: Callable[[str], str]
) -> list[Stage]:
    """The stages that end in a composite.

    Parameters
    ----------
    recipe : Recipe
    bands : as the recipe or the model names them; coordinates of the store.
    index : ItemIndex
    sign : makes an address ready, in the worker.
    """
    names = tuple(band_name(band) for band in bands)
    resolution, chunk = recipe.grid.resolution, recipe.grid.chunk_pixels
    labels = (("band", bands),)
    cube, n = recipe.cube, recipe.grid.tile

    def spec(path: str, dtype: str, fill: int, **more: object) -> ArraySpec:
        return ArraySpec(path, dtype, resolution, chunk, fill, **more)  # type: ignore[arg-type]

    composite = (
        spec("composite/bands", "uint16", 0, leading=labels, attrs=ATTRS),
        spec("composite/observations", "uint16", 0, attrs={"long_name": "usable days"}),
        spec(
            "composite/reason",
            "uint8",
            int(Reason.NOT_COMPUTED),
            outside=int(Reason.OUTSIDE_AREA),
            attrs=_REASON_ATTRS,
        ),
    )
    parameters = {
        "bands": names,
        "method": cube.composite,
        "cloud_dilation": cube.cloud_dilation,
        "mask_snow": cube.mask_snow,
    }
    how = (cube.composite, resolution, cube.cloud_dilation, cube.mask_snow, chunk)
    days = 40  # a season; a strip of all its days is held at once
    strip = days * len(bands) * n * chunk * 2 * 2.5 / 1e9
    if not cube.keep_scenes:
        unread = ComposeUnread(*how, bands=names, sign=sign)
        return [
            Stage(
                "composite",
                unread,
                composite,
                parameters=parameters,
                parts=index.whole,
                gigabytes=1.0 + 2 * strip,
            )
        ]
    compose = ComposeScenes(*how)
    scenes = (
        spec("scenes/bands", "uint16", 0, daily=True, leading=labels, attrs=ATTRS),
        spec("scenes/scl", "uint8", 0, daily=True, attrs=_SCL_ATTRS),
        spec("scenes/source", "uint32", 0, daily=True, attrs={"long_name": "item_key of the item"}),
    )
    return [
        Stage(
            "scenes",
            ReadScenes(names, resolution, sign),
            scenes,
            parameters={"bands": names},
            parts=index.days,
            daily=True,
            gigabytes=1.0 + 6 * len(bands) * n * n * 2 / 1e9,
        ),
        Stage(
            "composite",
            compose,
            composite,
            (Input("scenes", compose.halo * resolution),),
            parameters=parameters,
            parts=index.suspects,
            gigabytes=1.0 + strip,
        ),
    ]
