"""`natmap find`: the patches of a set, or the cells of a store, that are most like one."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.datasets.patches import PatchSet, open_patches
from engine.errors import LabelError
from engine.files import together
from engine.models.card import ModelCard, load_card
from engine.similarity.descriptors import LOOK, look_of, require_side
from engine.similarity.frames import ENDINGS, Picture, shown
from engine.similarity.scenes import open_place
from engine.similarity.sheet import SHOWN, Strip, draw_sheet
from engine.similarity.source import Patches
from engine.similarity.vectors import cosine, find_cells, is_store
from engine.texture.lbp import BINS, UNSEEN
from engine.texture.scene_file import PIXELS_ALIKE

__all__ = ["FILES", "Hit", "find"]

FILES = ("similar.csv", "similar.png")


@dataclass(frozen=True)
class Hit:
    """One that is alike.

    Attributes
    ----------
    distance : 0 alike, at most 1 of looks; 1 - cosine of vectors, 0 to 2.
    number : of the patch in its set, or of the cell: row times width plus column.
    frame : image or place; of a store its name.
    x, y : of a set its CRS's metres, of images column and row of the first pixel, of cells the
        centre in degrees east and north; NaN where nobody knows.
    """

    distance: float
    number: int
    frame: str
    x: float
    y: float


def find(
    like: str | Path,
    place: str | Path,
    out: str | Path | None = None,
    *,
    most: int = 40,
    side: int | None = None,
    bands: Sequence[int] | None = None,
    model: str | Path | None = None,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Hit]:
    """Search for what is most like an image, a patch of the set, or a place.

    Patches are compared by their look: texture at two scales, ratios of bands and brightness
    from its mean, which outlive turns, light and JPEG (`engine.similarity.descriptors.look_of`); or
    by the features of a model. Cells are compared by their vectors.

    Parameters
    ----------
    like : of sets and images: an image file, or the number of one of the patches. Of a store:
        "longitude,latitude" of a place.
    place : chip set, patch set, folder of images, or a store with an embedding.
    out : folder for ``similar.csv``, and ``similar.png`` where there are pictures.
    most : how many.
    side : of patches that are cut from images; by default that of the image that is searched for,
        else 512.
    bands : numbers of red, green and blue in images, from 1.
    model : folder of a card whose features patches of a patch set are compared by.
    threads : they show in no figure.
    tell : hears of what is missing in a store, and of pixels of other sizes.

    Returns
    -------
    The most alike first; of those as alike the first in the set. A patch that is named by its
    number, or a place's own cell, is left out.

    Raises
    ------
    LabelError, StoreError, CardError
        Where `like` or `place` cannot be used.
    """
    if most < 1:
        raise LabelError("how many are wanted is no number of hits", got=most, expected="1 or more")
    by = "a store" if is_store(place) else None if model is None else "a model"
    if by is not None and (side, bands) != (None, None):
        raise LabelError(f"{by} is searched by vectors, not by pictures", got="side or bands")
    if is_store(place) and model is not None:
        raise LabelError("a store is searched by its own vectors", got=str(model))
    strips = None
    if is_store(place):
        cells = find_cells(str(like), place, most, tell)
        hits = [Hit(d, n, Path(str(place)).name, x, y) for d, n, x, y in cells]
    elif model is not None:
        hits = _hits_by_features(str(like), Path(place), load_card(model), most)
    else:
        number, image = _like(str(like), bands)
        patches = _patches(Path(place), side, bands, image)
        require_side(patches)
        if note := _of_other_pixels(patches, image):
            tell(f"note: {note}")
        if image is None:
            _require_number(number, len(patches))
            block = patches.take(np.array([number]))
            query, picture = (block.rgb[0], block.valid[0]), patches.picture(block, 0)
        else:
            query, picture = (image.rgb, image.valid), shown(image.rgb)
        wanted = _looked_at(*query, name=str(like))
        near = _by_looks(patches, wanted, number, most, threads)
        hits = [_hit(patches, d, k) for d, k in near]
        strips = None if out is None else _strips(patches, picture, hits)
    if out is not None:
        _write(Path(out), hits, strips)
    return hits


def _hit(patches: Patches, distance: float, number: int) -> Hit:
    down, across = patches.at[number].tolist()
    frame = patches.frames[int(patches.frame[number])]
    return Hit(distance, number, frame, across, down if patches.at_pixels else -down)


def _like(like: str, bands: Sequence[int] | None) -> tuple[int, Picture | None]:
    """The number of a patch, or an image and -1."""
    path = Path(like)
    if path.is_file():
        return -1, Picture(path, bands)
    if like.isdecimal():
        return int(like), None
    raise LabelError(
        "there is nothing to search for",
        got=like,
        expected=f"an image ({', '.join(ENDINGS)}), or the number of a patch",
        remedy="of a store name longitude,latitude",
    )


def _patches(
    place: Path, side: int | None, bands: Sequence[int] | None, image: Picture | None
) -> Patches:
    """Those to search; images are cut to the size of the one that is searched for."""
    if side is None and image is not None and not (place / "zarr.json").is_file():
        side = int(min(image.rgb.shape[1:]))
    return open_place(place, side, bands=bands)


def _of_other_pixels(patches: Patches, image: Picture | None) -> str:
    """What to know where texture is of pixels of another size; empty where it is not."""
    mine, its = patches.pixel, None if image is None else image.pixel
    if mine is None or its is None or max(mine, its) < PIXELS_ALIKE * min(mine, its):
        return ""
    return (
        f"the image has pixels of {its:g} m, the patches of {mine:g} m: texture is of pixels, so "
        "what looks alike may be of another size"
    )


def _require_number(number: int, count: int) -> None:
    if number >= count:
        raise LabelError("there is no such patch", got=number, expected=f"0 to {count - 1}")


def _looked_at(
    rgb: npt.NDArray[Any], valid: npt.NDArray[np.bool_], name: str
) -> npt.NDArray[np.float64]:
    """The look of what is searched for.

    Raises
    ------
    LabelError
        Where it has no texture: it is small, of one colour, or has no data.
    """
    seen = rgb[:, valid]
    if not seen.size or (seen == seen[:, :1]).all():
        raise LabelError(
            "what is searched for is of one colour",
            got=name,
            expected="a picture of the ground",
        )
    look = look_of(rgb, valid)
    if not look[:BINS].any():
        raise LabelError(
            "what is searched for is too small for a texture",
            got=f"{name}: {rgb.shape[2]} x {rgb.shape[1]} px",
        )
    return look


def _by_looks(
    patches: Patches,
    wanted: npt.NDArray[np.float64],
    itself: int,
    most: int,
    threads: int | None,
) -> list[tuple[float, int]]:
    """Distances and numbers: half the sum of absolute differences of looks. Patches with more than
    a tenth of their pixels unseen are left out."""
    distance = np.full(len(patches), np.inf)
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for block in patches.blocks():
            looks = np.stack([*pool.map(look_of, block.rgb, block.valid)]).reshape(-1, LOOK)
            seen = block.valid.mean(axis=(1, 2)) >= 1 - UNSEEN
            distance[block.rows[seen]] = np.abs(looks[seen] - wanted).sum(axis=1) / 2
    return _nearest(distance, itself, most)


def _hits_by_features(like: str, place: Path, card: ModelCard, most: int) -> list[Hit]:
    """Patches of a set by the angle of their features to those of one of them."""
    if not like.isdecimal():
        raise LabelError(
            "a model looks at patches of its own bands",
            got=like,
            expected="the number of a patch of the set",
        )
    found = open_patches(place)
    _require_number(int(like), len(found))
    near = _by_features(found, card, int(like), most)
    names = [p.name for p in found.places]
    return [
        Hit(d, k, names[int(found.place[k])], float(found.xy[k, 0]), float(found.xy[k, 1]))
        for d, k in near
    ]


def _by_features(
    found: PatchSet, card: ModelCard, itself: int, most: int
) -> list[tuple[float, int]]:
    from engine.infer.predict import Predictor  # torch: a second and 150 MB
    from engine.models.inputs import prepare_batch

    card.check_features()
    if card.architecture == "gcn":
        raise LabelError(
            "the model looks at graphs, not at patches", got=card.name, expected="another model"
        )
    for name, mine, its in (
        ("bands", card.bands, found.bands),
        ("patch", card.patch, found.patch),
        ("resolution", card.resolution, found.resolution),
        ("ranges", dict(card.ranges), dict(found.ranges)),
    ):
        if mine != its:
            raise LabelError(
                f"patches have other {name} than the model", got=str(its), expected=str(mine)
            )
    predictor = Predictor(card, "cpu")
    parts = []
    for first in range(0, len(found), _AT_ONCE):
        rows = np.arange(first, min(first + _AT_ONCE, len(found)))
        parts.append(predictor(prepare_batch(found.take(rows, card.context), card))[1])
    vectors = np.concatenate(parts)
    return _nearest(cosine(vectors, vectors[itself]), itself, most)


_AT_ONCE = 1024


def _nearest(distance: npt.NDArray[np.float64], itself: int, most: int) -> list[tuple[float, int]]:
    order = np.argsort(distance, kind="stable")
    order = order[(order != itself) & np.isfinite(distance[order])][:most]
    return [(float(distance[k]), int(k)) for k in order]


def _write(folder: Path, hits: Sequence[Hit], strips: Sequence[Strip] | None) -> None:
    with together(folder, mark=FILES[0], before=FILES[1:]) as part:
        with (part / FILES[0]).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["rank", "distance", "number", "frame", "x", "y"])
            for rank, hit in enumerate(hits, 1):
                at = ["" if v != v else repr(v) for v in (hit.x, hit.y)]
                table.writerow([rank, f"{hit.distance:.6f}", hit.number, hit.frame, *at])
        if strips is not None:
            draw_sheet(part / FILES[1], strips, "most alike")


def _strips(patches: Patches, picture: npt.NDArray[np.uint8], hits: Sequence[Hit]) -> list[Strip]:
    strips = [Strip("searched for", "", (picture,))]
    for first in range(0, len(hits), SHOWN):
        some = hits[first : first + SHOWN]
        pictures = []
        for hit in some:
            block = patches.take(np.array([hit.number]))
            pictures.append(patches.picture(block, 0))
        words = f"distance {some[0].distance:.3f} · to {some[-1].distance:.3f}"
        strips.append(Strip(f"{first + 1} to {first + len(some)}", words, tuple(pictures)))
    return strips
