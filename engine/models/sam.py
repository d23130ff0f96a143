"""Segment Anything as a segmenter: masks of all things in a window, from a local checkpoint.

The network is the library's (`transformers`, an extra); what it is asked, and which of its masks
are kept, is here: Kirillov et al. 2023, appendix B, with DF4LCZ's numbers. Nothing is downloaded
and nothing unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from engine.errors import WeightsError
from engine.models.device import be_exact, with_room

__all__ = ["Choice", "Prompt", "find_masks", "load_sam"]

Image = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]
Prompt = Callable[[Image, npt.NDArray[np.float32]], tuple[Tensor, Tensor]]
"""An image and points (n, 2) in its x and y -> logits (n, 3, y, x) and foretold IoU (n, 3)."""

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_POINTS = 64  # asked at once
_OVERLAP = 512 / 1500  # of crops, as a share of the image's short side
_EDGE = 20  # pixels from a crop's border within which a mask counts as cut by it
_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Choice:
    """Which masks are asked for and kept; the defaults are DF4LCZ's.

    Attributes
    ----------
    points : on a side of the grid of points; half as many in each of the four crops.
    iou : least foretold overlap with the truth.
    stability : least share of a mask that stays when its threshold moves by one either way.
    nms : overlap of boxes from which the less sure of two masks goes, within a crop and between.
    crops : also look at four overlapping quarters.
    least : pixels of a part, or of a hole, that is taken for noise.
    """

    points: int = 12
    iou: float = 0.88
    stability: float = 0.92
    nms: float = 0.4
    crops: bool = True
    least: int = 100


def find_masks(rgb: Image, prompt: Prompt, choice: Choice | None = None) -> Masks:
    """Masks of all things in an image, bool (n, y, x), the surest first; they may overlap.

    Parameters
    ----------
    rgb : uint8 (y, x, 3)
    prompt : a network, see `load_sam`.
    choice : Choice, optional
    """
    choice = choice or Choice()
    height, width = rgb.shape[:2]
    masks: list[Masks] = []
    sizes: list[float] = []
    for layer, (top, left, bottom, right) in _crops(height, width, choice.crops):
        part = np.ascontiguousarray(rgb[top:bottom, left:right])
        found = _of_crop(part, prompt, choice, choice.points // 2 if layer else choice.points)
        box = (top, left, bottom, right)
        for mask in found:
            if not _is_cut(mask, box, (height, width)):
                whole = np.zeros((height, width), bool)
                whole[top:bottom, left:right] = mask
                masks.append(whole)
                sizes.append((bottom - top) * (right - left))
    # of two crops the smaller one saw more of it
    order = np.argsort(sizes, kind="stable")
    masks = [masks[k] for k in order]
    masks = [tidy for mask in masks if (tidy := _tidy(mask, choice.least)).any()]
    kept = _suppress(masks, choice.nms)
    return np.stack([masks[k] for k in kept]) if kept else np.zeros((0, height, width), bool)


def _crops(
    height: int, width: int, quarters: bool
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """The image, and four quarters of it that overlap; (layer, (top, left, bottom, right))."""
    yield 0, (0, 0, height, width)
    if not quarters:
        return
    overlap = int(_OVERLAP * min(height, width))
    tall, wide = math.ceil((overlap + height) / 2), math.ceil((overlap + width) / 2)
    for top in (0, tall - overlap):
        for left in (0, wide - overlap):
            yield 1, (top, left, min(top + tall, height), min(left + wide, width))


def _of_crop(rgb: Image, prompt: Prompt, choice: Choice, side: int) -> list[Masks]:
    """Masks of a crop that are sure, stable and not found twice, the surest first."""
    height, width = rgb.shape[:2]
    along = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(along * width, along * height)
    points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    logits, foretold = prompt(rgb, points)
    logits, foretold = logits.flatten(0, 1), foretold.flatten()
    inner, outer = ((logits > level).sum(dim=(1, 2)) for level in (1.0, -1.0))
    stable = inner / outer.clamp(min=1) >= choice.stability
    good = (foretold > choice.iou) & stable & ((logits > 0).flatten(1).any(dim=1))
    where = torch.nonzero(good).flatten()
    where = where[torch.argsort(foretold[where], descending=True, stable=True)]
    masks = list((logits[where] > 0).numpy())
    return [masks[k] for k in _suppress(masks, choice.nms)]


def _box(mask: Masks) -> tuple[int, int, int, int]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1


def _is_cut(mask: Masks, crop: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    """Whether a mask ends at a border of its crop that is none of the image."""
    box = np.array(_box(mask)) + np.array([crop[0], crop[1]] * 2)
    ends = np.abs(box - np.array(crop)) <= _EDGE
    image = np.abs(box - np.array([0, 0, *size])) <= _EDGE
    return bool((ends & ~image).any())


def _suppress(masks: list[Masks], most: float) -> list[int]:
    """Positions of masks whose box overlaps no earlier kept one's by more than `most`."""
    kept: list[int] = []
    boxes = np.array([_box(mask) for mask in masks], float).reshape(-1, 4)
    for k, box in enumerate(boxes):
        others = boxes[kept]
        low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
        union = areas + (box[2:] - box[:2]).prod() - shared
        if not (shared > most * union).any():
            kept.append(k)
    return kept


def _tidy(mask: Masks, least: int) -> Masks:
    """Without holes, and then parts, under `least` px; the largest part stays."""
    for filled in (False, True):
        labels, count = ndimage.label(mask == filled, np.ones((3, 3)))
        areas = np.bincount(labels.ravel(), minlength=count + 1)
        small = areas < least
        small[0] = False
        if filled and small[1:].all() and count:
            small[1 + int(areas[1:].argmax())] = False
        mask = np.where(small[labels], not filled, mask)
    return mask


_loading = Lock()  # a worker beside a GPU has two slots, and both may ask first


def load_sam(folder: Path, device: str = "cpu") -> Prompt:
    """A network from a folder of the library's form, once per process.

    Parameters
    ----------
    folder : with ``config.json`` and ``model.safetensors``.
    device : {"cpu", "cuda"}; of a GPU that is full, fewer points are asked at once.

    Raises
    ------
    WeightsError
        Where the library is not installed, or the folder is none of these.
    """
    with _loading:
        return _load(folder, device)


@lru_cache(maxsize=1)
def _load(folder: Path, device: str) -> Prompt:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise WeightsError(
            "there is no checkpoint of Segment Anything",
            got=f"{folder} without {', '.join(missing)}",
            expected=" and ".join(_FILES),
            remedy="save one there with transformers' SamModel.save_pretrained",
        )
    try:
        from transformers import SamModel
    except ImportError as error:
        raise WeightsError(
            "Segment Anything needs the library transformers",
            got=error,
            remedy="pip install 'natmap[sam]'",
        ) from error
    be_exact()
    try:
        network: Any = SamModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True
        )
        network = network.eval()
        side = int(network.config.vision_config.image_size)
        # the library sums them up at each call, which has no deterministic form on a GPU
        with torch.no_grad():
            places = network.get_image_wide_positional_embeddings().to(device)
        network.get_image_wide_positional_embeddings = lambda: places
        network = network.to(device)
    except Exception as error:  # the library raises of all kinds
        raise WeightsError(
            "the checkpoint of Segment Anything cannot be used", got=f"{folder}: {error}"
        ) from error

    size = _POINTS

    def keep(fewer: int) -> None:
        nonlocal size
        size = fewer

    def prompt(rgb: Image, points: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        def ask(at_once: int) -> tuple[Tensor, Tensor]:
            return _ask(network, side, device, rgb, points, at_once)

        return with_room(ask, size, "point of an image", keep)

    return prompt


def _ask(
    network: Any,
    side: int,
    device: str,
    rgb: Image,
    points: npt.NDArray[np.float32],
    at_once: int,
) -> tuple[Tensor, Tensor]:
    """An image scaled to the network's side and padded, its points, the masks scaled back."""
    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    tall, wide = round(height * scale), round(width * scale)
    x = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None]
    x = functional.interpolate(x, (tall, wide), mode="bilinear", antialias=True)
    x = (x - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]
    x = functional.pad(x, (0, side - wide, 0, side - tall)).to(device)
    places = torch.from_numpy(points * np.array([wide / width, tall / height], np.float32)).to(
        device
    )
    logits, foretold = [], []
    with torch.inference_mode():
        seen = network.get_image_embeddings(x)
        for first in range(0, len(places), at_once):
            found = network(
                image_embeddings=seen,
                input_points=places[None, first : first + at_once, None],
                multimask_output=True,
            )
            masks = functional.interpolate(found.pred_masks[0], (side, side), mode="bilinear")
            masks = masks[..., :tall, :wide]
            logits.append(functional.interpolate(masks, (height, width), mode="bilinear").cpu())
            foretold.append(found.iou_scores[0].cpu())
    return torch.cat(logits), torch.cat(foretold)
