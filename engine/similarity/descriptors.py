"""Patches as histograms: of their labels, of their texture; and of their look, for a search."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d, minimum_filter

from engine.errors import LabelError
from engine.similarity.source import NO_LABEL, Block, Patches
from engine.texture.lbp import BINS, RIM, UNSEEN, lbp_counts, luminance, texture_counts

__all__ = [
    "LOOK",
    "By",
    "Described",
    "describe",
    "look_of",
    "require_by",
    "require_side",
]

By = Literal["labels", "texture", "both"]
"""What scenes go by."""

_LEAST_SIDE = 2 * RIM + 8
_BLUR = (2.0, 4.0)  # pixels: standard deviations of a look's scales
_STEPS = 16  # of a grey level, that blurred luminance is kept in
_HUES, _HUE = 12, 0.6  # bins of a ratio of two bands, and its logarithm at the last one
_TONES, _DEVIATIONS = 16, 3.0  # bins of brightness, and standard deviations at the last one
_WEIGHTS = (0.1, 0.3, 0.15, 0.15, 0.3)  # of two textures, two ratios, brightness
LOOK = 2 * BINS + 2 * _HUES + _TONES
"""Components of a look."""


@dataclass(frozen=True)
class Described:
    """Patches as counts of pixels.

    Attributes
    ----------
    rows : int64 (n,), which of the source's patches they are.
    texture : int64 (n, 22)
    labels : int64 (n, classes); None: they have none.
    codes : of the classes, ascending.
    notes : of what was left out.
    """

    rows: npt.NDArray[np.int64]
    texture: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | None
    codes: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def vectors(self, by: By) -> npt.NDArray[np.float64]:
        """Histograms that sum to 1 each, one after the other: float64 (n, components)."""
        parts = []
        if by != "texture":
            assert self.labels is not None
            parts.append(self.labels / self.labels.sum(axis=1, keepdims=True))
        if by != "labels":
            parts.append(self.texture / self.texture.sum(axis=1, keepdims=True))
        return np.concatenate(parts, axis=1)


def require_by(by: str | None, patches: Patches) -> By:
    """What scenes go by: by default both where there are labels, else texture.

    Raises
    ------
    LabelError
        Where it is something else, or goes by labels that are not there.
    """
    if by is None:
        return "both" if patches.labelled else "texture"
    if by not in get_args(By):
        raise LabelError("scenes cannot go by this", got=by, expected=", ".join(get_args(By)))
    if by != "texture" and not patches.labelled:
        raise LabelError(
            "the patches have no labels of pixels to go by",
            got=patches.name,
            expected="a chip set, or frames with --labels",
            remedy="go by texture",
        )
    return by  # type: ignore[return-value]  # it is one of them


def describe(
    patches: Patches, *, threads: int | None = None, tell: Callable[[int, int], None] | None = None
) -> Described:
    """Count codes of texture and of labels in each patch.

    Patches with more than a tenth of their pixels unseen, or none with a label, are left out, and
    counted in the notes.

    Parameters
    ----------
    patches : of a set, or of frames.
    threads : by default as many as there are cores; they show in no figure.
    tell : hears how many patches are done, of how many.

    Raises
    ------
    LabelError
        Where patches are too small for a texture, a frame is of one colour, or none is left.
    """
    require_side(patches)
    textures, labels, kept = [], [], []
    unseen = unlabelled = done = 0
    flat = np.ones(len(patches.frames), bool)
    seen_in = np.zeros(len(patches.frames), bool)
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for block in patches.blocks():
            enough = block.valid.mean(axis=(1, 2)) >= 1 - UNSEEN
            counted = _histograms(block)
            known = np.ones(len(enough), bool) if counted is None else counted.sum(axis=1) > 0
            keep = np.flatnonzero(enough & known)
            unseen += int((~enough).sum())
            unlabelled += int((enough & ~known).sum())
            found = list(pool.map(texture_counts, block.rgb[keep], block.valid[keep]))
            if len(keep):
                textures.append(np.stack(found))
                kept.append(block.rows[keep])
                if counted is not None:
                    used = np.flatnonzero(counted[keep].any(axis=0))
                    labels.append((used, counted[keep][:, used]))
                frames = patches.frame[block.rows[keep]]
                seen_in[frames] = True
                same = [_is_flat(block.rgb[k], block.valid[k]) for k in keep]
                flat[frames[~np.array(same)]] = False
            done += len(enough)
            if tell is not None:
                tell(done, len(patches))
    constant = np.flatnonzero(flat & seen_in)
    if len(constant):
        raise LabelError(
            "images are of one colour",
            got=", ".join(patches.frames[k] for k in constant[:8]),
            expected="pictures of the ground",
            remedy="declare the value as nodata, or leave these images out",
        )
    if not kept:
        raise LabelError(
            "no patch is left to describe",
            got=f"{patches.name}: {unseen} with too many unseen pixels, {unlabelled} without label",
        )
    notes = [*patches.notes]
    if unseen:
        notes.append(f"{unseen} patches have too many pixels without data, and take no part")
    if unlabelled:
        notes.append(f"{unlabelled} patches have no label, and take no part")
    texture = np.concatenate(textures)
    found_labels, codes = _merged(labels) if labels else (None, ())
    rows = np.concatenate(kept)
    full = texture.sum(axis=1) > 0
    if not full.all():  # holes leave no whole circle
        notes.append(f"{int((~full).sum())} patches have no pixel with a texture")
        rows, texture = rows[full], texture[full]
        found_labels = None if found_labels is None else found_labels[full]
    return Described(rows, texture, found_labels, codes, tuple(notes))


def look_of(rgb: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """What a search compares: of the blurred picture texture at two scales, ratios of red and blue
    to green, and brightness from its mean in standard deviations.

    Turns and JPEG change neighbouring pixels, so that texture of the pixels themselves does not
    outlive them; that of a blurred picture does. Ratios and deviations do not change with light.
    The finer texture counts a tenth, the coarser, the ratios and the brightness three each.

    Parameters
    ----------
    rgb : whole numbers (3, rows, columns).
    valid : bool (rows, columns)

    Returns
    -------
    float64 (LOOK,), sums to 1 unless there is nothing to count.
    """
    fine, coarse = _BLUR
    soft, seen = _blurred(rgb.astype(np.float64), valid, fine)
    bright = 0.299 * soft[0] + 0.587 * soft[1] + 0.114 * soft[2]
    parts = [lbp_counts(np.rint(_STEPS * bright), seen)]
    shown = luminance(rgb).astype(np.float64)
    softer, seen_far = _blurred(shown[None], valid, coarse)
    parts.append(lbp_counts(np.rint(_STEPS * softer[0]), seen_far))
    red, green, blue = soft[:, seen] + 1
    parts += [_histogram(np.log(band / green) / _HUE, _HUES) for band in (red, blue)]
    values = bright[seen]
    apart = values - values.mean() if values.size else values
    spread = float(apart.std()) if values.size else 0.0
    parts.append(_histogram(apart / (_DEVIATIONS * (spread or 1.0)), _TONES))
    return np.concatenate(
        [w * part / max(part.sum(), 1) for w, part in zip(_WEIGHTS, parts, strict=True)]
    )


def _blurred(
    bands: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], sigma: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Bands (band, rows, columns) after a Gauss of so many pixels, and where it saw no gap."""
    reach = round(2 * sigma)
    for axis in (1, 2):
        bands = gaussian_filter1d(bands, sigma, axis, truncate=2.0, mode="reflect")
    if valid.all():
        return bands, valid
    return bands, minimum_filter(valid.astype(np.uint8), 2 * reach + 1, mode="reflect") > 0


def _histogram(values: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.int64]:
    """Counts of values from -1 to 1, those beyond in the first and last bin."""
    place = np.floor((np.clip(values, -1, 1) + 1) / 2 * bins)
    return np.bincount(np.minimum(place, bins - 1).astype(np.int64), minlength=bins)


def _is_flat(rgb: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> bool:
    seen = rgb[:, valid]
    return bool((seen == seen[:, :1]).all())


def _histograms(block: Block) -> npt.NDArray[np.int64] | None:
    """Pixels of each code in each patch (n, 255); those without a label count nowhere."""
    if block.labels is None:
        return None
    told = np.where(block.valid, block.labels, NO_LABEL)
    return np.stack([np.bincount(each.ravel(), minlength=256)[:NO_LABEL] for each in told])


def _merged(
    parts: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
) -> tuple[npt.NDArray[np.int64], tuple[int, ...]]:
    """Counts of blocks, each of the codes that occur in it, as one table and its codes."""
    codes = np.unique(np.concatenate([used for used, _ in parts]))
    found = np.zeros((sum(len(counts) for _, counts in parts), len(codes)), np.int64)
    first = 0
    for used, counts in parts:
        found[first : first + len(counts), np.searchsorted(codes, used)] = counts
        first += len(counts)
    return found, tuple(codes.tolist())


def require_side(patches: Patches) -> None:
    """Refuse patches that are hardly larger than what a texture leaves out of them.

    Raises
    ------
    LabelError
    """
    if patches.side < _LEAST_SIDE:
        raise LabelError(
            "patches are too small for a texture",
            got=f"{patches.name}: {patches.side} px",
            expected=f"{_LEAST_SIDE} px or more",
        )
