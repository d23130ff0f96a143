"""LCZ: scenes, composite, scores, map - halos, arrays and parameters of each stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.cube.access import Access
from engine.cube.clouds import NO_SCL, READ_FAILED, widest_dilation
from engine.cube.radiometry import ATTRS
from engine.grid.grid import Tile
from engine.items import Sign, band_name
from engine.legend import LCZ, Reason
from engine.maps.filter import widest_halo
from engine.maps.mask import Boundary
from engine.models.card import ModelCard
from engine.products.composite import (
    RESOURCES,
    SEASON,
    ComposeScenes,
    ComposeUnread,
    MakeMap,
    ReadScenes,
    ScoreCells,
)
from engine.products.sources import ItemIndex
from engine.recipes.run import ModelChoice, Recipe
from engine.runs.stage import Input, Part, Stage
from engine.store.arrays import ArraySpec

__all__ = ["REASON_ATTRS", "cube_stages", "map_stages"]

_SCL_ATTRS = {
    "long_name": "scene classification of the item that supplied the pixel",
    "flag_values": [READ_FAILED, NO_SCL],
    "flag_meanings": "read_failed item_without_scl",
}
_DISSENT = "usable days that depart from the composite in the blue: missed cloud, snow or change"
REASON_ATTRS = {
    "flag_values": [int(r) for r in Reason],
    "flag_meanings": " ".join(r.name.lower() for r in Reason),
}


def cube_stages(
    recipe: Recipe, bands: tuple[str, ...], index: ItemIndex, sign: Sign
) -> list[Stage]:
    """The stages that end in a composite.

    Parameters
    ----------
    recipe : Recipe
    bands : as the recipe or the model names them; coordinates of the store.
    index : ItemIndex
    sign : makes an address ready, in the worker.
    """
    verify = recipe.scenes.verify
    access = Access(sign, verify=verify)
    names = tuple(band_name(band) for band in bands)
    resolution, chunk = recipe.grid.resolution, recipe.grid.chunk_pixels
    labels = (("band", bands),)
    cube, n = recipe.cube, recipe.grid.tile

    def spec(path: str, dtype: str, fill: int, **more: object) -> ArraySpec:
        return ArraySpec(path, dtype, resolution, chunk, fill, **more)  # type: ignore[arg-type]

    composite = (
        spec("composite/bands", "uint16", 0, leading=labels, attrs=ATTRS, codec="lz4"),
        spec("composite/observations", "uint16", 0, attrs={"long_name": "usable days"}),
        spec("composite/dissent", "uint8", 0, attrs={"long_name": _DISSENT}),
        spec(
            "composite/reason",
            "uint8",
            int(Reason.NOT_COMPUTED),
            outside=int(Reason.OUTSIDE_AREA),
            attrs=REASON_ATTRS,
        ),
    )
    parameters = {
        "bands": names,
        "method": cube.composite,
        "cloud_dilation": cube.cloud_dilation,
        "mask_snow": cube.mask_snow,
    }
    # absent unless asked for: scenes read before there was such a thing stay as they are
    checked = {"verify": True} if verify else {}
    blue = names.index("B02") if "B02" in names else 0
    how = (cube.composite, resolution, cube.cloud_dilation, cube.mask_snow, chunk, blue)
    strip = SEASON * len(bands) * n * chunk * 2 * 2.5 / 1e9
    if not cube.keep_scenes:
        unread = ComposeUnread(*how, bands=names, access=access)
        return [
            Stage(
                "composite",
                unread,
                composite,
                version=2,
                parameters=parameters | checked,
                parts=index.whole,
                gigabytes=1.0 + 2 * strip,
            )
        ]
    compose = ComposeScenes(*how)
    scenes = (
        spec("scenes/bands", "uint16", 0, daily=True, leading=labels, attrs=ATTRS, codec="lz4"),
        spec("scenes/scl", "uint8", 0, daily=True, attrs=_SCL_ATTRS, codec="lz4"),
        spec(
            "scenes/source",
            "uint32",
            0,
            daily=True,
            attrs={"long_name": "item_key of the item", "_FillValue": 0},
            codec="lz4",
        ),
    )
    return [
        Stage(
            "scenes",
            ReadScenes(names, resolution, access),
            scenes,
            parameters={"bands": names, **checked},
            parts=index.days,
            daily=True,
            gigabytes=1.0 + 6 * len(bands) * n * n * 2 / 1e9,
        ),
        Stage(
            "composite",
            compose,
            composite,
            (Input("scenes", widest_dilation(cube.cloud_dilation, resolution) * resolution),),
            parameters=parameters,
            parts=index.suspects,
            upstream="withdrawn item",
            gigabytes=1.0 + 1.5 * strip,  # one strip is read while another is sorted
        ),
    ]


def map_stages(
    recipe: Recipe,
    choice: ModelChoice,
    card: ModelCard,
    bands: tuple[str, ...],
    boundary: Boundary | None,
    fused: Sequence[Stage] = (),
) -> list[Stage]:
    """The stages from a composite to the map.

    Parameters
    ----------
    recipe : Recipe
    choice : its model section.
    card : ModelCard
    bands : of the cube, as named there.
    boundary : Boundary, optional
        Of the product mask.
    fused : stages that follow the scores; the map is made of the last one's.
    """
    names = [band_name(band) for band in bands]
    order = tuple(names.index(band) for band in card.bands)
    cell, n = card.cell, round(recipe.grid.tile_metres / card.cell)
    codes = tuple(card.classes)
    patch_input = Input("composite", card.halo * card.resolution)
    patches = 256 * len(card.bands) * (card.patch + 2 * card.context) ** 2 * 4 / 1e9
    memory = 2.0 + 20 * patches + 3 * len(bands) * recipe.grid.tile**2 * 4 / 1e9

    def score(group: str) -> ScoreCells:
        return ScoreCells(card, order, choice.device, choice.precision, group)

    def spec(path: str, dtype: str, fill: float, **more: object) -> ArraySpec:
        return ArraySpec(path, dtype, cell, n, fill, **more)  # type: ignore[arg-type]

    model = {"model": card.key, "precision": choice.precision}
    stages = [
        Stage(
            "scores",
            score("scores"),
            (spec("scores/classes", choice.scores, math.nan, leading=(("class", codes),)),),
            (patch_input,),
            version=3,
            parameters=model | {"dtype": choice.scores},
            resource=RESOURCES[choice.device],
            gigabytes=memory,
        )
    ]
    if choice.embedding:
        labels = (("feature", tuple(range(card.features))),)
        stages.append(
            Stage(
                "embedding",
                score("embedding"),
                (spec("embedding/features", "float32", math.nan, leading=labels),),
                (patch_input,),
                version=3,
                parameters=model,
                resource=RESOURCES[choice.device],
                gigabytes=memory,
            )
        )
    stages += fused
    rules = recipe.filter
    factor = round(card.cell / recipe.grid.resolution)
    make = MakeMap(
        codes,
        cell,
        factor,
        rules.method,
        rules.radius_rule,
        rules.majority_radius,
        boundary is not None,
        fused[-1].name if fused else "scores",
    )
    outside = int(Reason.OUTSIDE_AREA)
    legend = {
        "flag_values": [c.code for c in LCZ],
        "flag_meanings": " ".join(c.name for c in LCZ),
        "flag_colors": " ".join(f"#{c.colour}" for c in LCZ),
    }

    def polygons(tile: Tile) -> list[Part]:
        if boundary is None:
            return [Part()]
        payload, fingerprint = boundary.near(tile)
        return [Part(0, fingerprint, payload)]

    stages.append(
        Stage(
            "map",
            make,
            (
                spec("map/classes", "uint8", 0, attrs=legend),
                spec("map/filtered", "uint8", 0, attrs=legend),
                spec("map/confidence", "uint8", 255, attrs={"units": "percent"}),
                spec("map/observations", "uint16", 0),
                spec("map/dissent", "uint8", 255, attrs={"units": "percent"}),
                spec("map/reason", "uint8", 255, outside=outside, attrs=REASON_ATTRS),
            ),
            (
                Input(make.scores, widest_halo(cell, rules.majority_radius) * cell),
                Input("composite"),
            ),
            parameters={
                "filter": rules.model_dump(),
                "codes": codes,
                "mask": recipe.mask.outside if recipe.mask else None,
            },
            parts=polygons,
            outside="boundary",
        )
    )
    return stages
