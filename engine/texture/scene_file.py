"""The file of scenes that `natmap scenes` writes: read within bounds, to assign others to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import LabelError, NatmapError
from engine.recipes.base import explain
from engine.recipes.documents import read_document, read_json
from engine.texture.lbp import BINS, POINTS, RADIUS, RIM, UNSEEN
from engine.texture.nearest import RARE, nearest

__all__ = ["PIXELS_ALIKE", "SCHEMA", "TEXTURE", "Kind", "KnownScenes", "read_scenes"]

SCHEMA = "natmap-scenes/2"
TEXTURE: Mapping[str, Any] = {
    "codes": "lbp-riu2",
    "points": POINTS,
    "radius": RADIUS,
    "rim": RIM,
    "luminance": "bt601",
    "unseen": UNSEEN,
}
"""How patches are described, as a file of scenes says it."""
PIXELS_ALIKE = 1.05
"""Ratio of two pixel sizes up to which textures are compared."""

Kind = Literal["uint8", "uint16", "reflectance"]
"""Numbers that a texture is of: pixels of images, or reflectance x 10,000 of composites."""
Points = npt.NDArray[np.float64]

_MOST_BYTES = 16 << 20
_MOST = 1000  # scenes
_SLIP = 1e-6  # of a sum of 1


class _Form(BaseModel):
    """What is read of a part of the file; all else is for people."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, strict=True)


class _Settings(_Form):
    by: Literal["labels", "texture", "both"]
    side: int = Field(ge=1, le=100_000)


class _Scene(_Form):
    scene: int
    centre: list[float] = Field(min_length=1, max_length=BINS + 255)
    radius: float = Field(ge=0, le=2)
    card: str | None = Field(None, max_length=4000)


class _Document(_Form):
    texture: dict[str, Any]
    settings: _Settings
    kind: Kind
    pixel: float | None = Field(gt=0, le=1e5)
    codes: list[int] = Field(max_length=255)
    far: float | None = Field(gt=0, le=1e3)
    spread: float = Field(ge=0, le=4)
    scenes: list[_Scene] = Field(min_length=1, max_length=_MOST)


@dataclass(frozen=True)
class KnownScenes:
    """Scenes of an earlier set, and how its patches were described.

    Attributes
    ----------
    path : of the file.
    by : labels, texture or both.
    side : of a patch, in pixels.
    kind : of its numbers.
    pixel : side of a pixel in metres; None: nobody knows, or several.
    codes : of the classes that labels were counted by, ascending.
    centres : float64 (scenes, components), the labels' before the texture's.
    far : distance beyond which a patch is in no scene; infinite: each is in one.
    radii : float64 (scenes,), distance of the scene's farthest patch from its centre.
    spread : mean square of the distances of patches from the centres of their scenes.
    cards : paths of the scenes' models, as the file has them, by scene.
    document : all that the file says.
    """

    path: Path
    by: Literal["labels", "texture", "both"]
    side: int
    kind: Kind
    pixel: float | None
    codes: tuple[int, ...]
    centres: Points
    far: float
    radii: Points
    spread: float
    cards: Mapping[int, str]
    document: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.centres)

    @property
    def key(self) -> str:
        """Of what decides the scene of a patch: 32 hex digits."""
        said = [self.by, self.side, self.kind, self.pixel, self.codes, dict(TEXTURE)]
        told = json.dumps([*said, None if np.isinf(self.far) else self.far, self.spread])
        digest = hashlib.blake2b(told.encode(), digest_size=16)
        for values in (self.centres, self.radii):
            digest.update(np.ascontiguousarray(values, "<f8").tobytes())
        return digest.hexdigest()

    def assign(self, points: Points) -> tuple[npt.NDArray[np.int64], Points]:
        """The scene of each patch, `RARE` where its centre is too far, and the distance.

        The patches of the earlier set get what they had.

        Parameters
        ----------
        points : float64 (n, components)
        """
        scene = np.empty(len(points), np.int64)
        distance = np.empty(len(points))
        nearest(np.ascontiguousarray(points), self.centres, scene, distance)
        scene[distance > self.far] = RARE
        return scene, distance

    def outlying(self, scene: npt.NDArray[np.int64], distance: Points) -> npt.NDArray[np.bool_]:
        """Which patches are farther from their centre than any of the earlier set was."""
        return np.asarray((scene == RARE) | (distance > self.radii[scene]))

    def require_alike(
        self, name: str, side: int, kind: str, pixel: float | None, error: type[NatmapError]
    ) -> tuple[str, ...]:
        """Refuse patches that cannot be described as the earlier ones; gives notes.

        Parameters
        ----------
        name : of what is described.
        side, kind, pixel : of its patches.
        error : what is raised.
        """
        if side != self.side:
            raise error(
                "scenes are of patches of another size",
                got=f"{name}: {side} px",
                expected=f"{self.side} px, as {self.path.name} says",
                remedy="find scenes again, in patches of that size: natmap scenes",
            )
        if kind != self.kind:
            raise error(
                "scenes are of other pixels",
                got=f"{name}: {kind}",
                expected=f"{self.kind}, as {self.path.name} says",
                remedy="find scenes again, in patches of these images: natmap scenes",
            )
        if pixel is None or self.pixel is None:
            whose = name if pixel is None else self.path.name
            note = f"nobody knows the pixel size of {whose}, and texture is of pixels"
            return (f"{note}: it must be that of the others, for scenes to be the same",)
        if max(pixel, self.pixel) > PIXELS_ALIKE * min(pixel, self.pixel):
            raise error(
                "scenes are of another resolution",
                got=f"{name}: {pixel:g} m",
                expected=f"{self.pixel:g} m, as {self.path.name} says",
                remedy="find scenes again, in images of this resolution: natmap scenes",
            )
        return ()

    def require_numbers(self, numbers: Sequence[int], error: type[NatmapError], who: str) -> None:
        """Refuse numbers that are no scene's."""
        if wrong := sorted(set(numbers) - set(range(len(self)))):
            raise error(
                f"{who} names scenes that are not there",
                got=", ".join(map(str, wrong)),
                expected=f"0 to {len(self) - 1}, the scenes of {self.path.name}",
            )


def read_scenes(path: Path, error: type[NatmapError] = LabelError) -> KnownScenes:
    """Read a file of scenes: ``scenes.json`` of `natmap scenes`, or of `natmap train --each`.

    Raises
    ------
    `error`
        Where it is none, is of another version, or holds what no set of scenes can.
    """
    try:
        document = read_json(read_document(path, _MOST_BYTES))
    except FileNotFoundError as missing:
        raise error(
            "there is no such file of scenes",
            got=str(path),
            expected="scenes.json, as natmap scenes writes it",
        ) from missing
    except ValueError as wrong:
        raise error("the file of scenes cannot be read", got=f"{path}: {wrong}") from wrong
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise error(
            "this is not a file of scenes of this version",
            got=f"{path}: schema {str(found)[:80]}",
            expected=SCHEMA,
            remedy="write it again: natmap scenes",
        )
    try:
        form = _Document.model_validate(document)
    except ValidationError as wrong:
        raise error(
            "the file of scenes is wrong", got=f"{path}: {explain(wrong, _Document)}"
        ) from wrong
    if form.texture != TEXTURE:
        raise error(
            "scenes are of patches that were described otherwise",
            got=f"{path}: {json.dumps(form.texture)[:200]}",
            expected=json.dumps(dict(TEXTURE)),
            remedy="find scenes again: natmap scenes",
        )
    if wrong_part := _wrong(form):
        raise error("the file of scenes is wrong", got=f"{path}: {wrong_part}")
    return KnownScenes(
        path,
        form.settings.by,
        form.settings.side,
        form.kind,
        form.pixel,
        tuple(form.codes),
        np.array([each.centre for each in form.scenes], np.float64),
        np.inf if form.far is None else form.far,
        np.array([each.radius for each in form.scenes], np.float64),
        form.spread,
        {each.scene: each.card for each in form.scenes if each.card is not None},
        document,
    )


def _wrong(form: _Document) -> str | None:
    """What contradicts itself in a file; None: nothing."""
    by, codes = form.settings.by, form.codes
    if codes != sorted(set(codes)) or (codes and not 0 <= codes[0] <= codes[-1] < 255):
        return f"codes: {codes}, expected different ones of 0 to 254, in order"
    labels = 0 if by == "texture" else len(codes)
    if by != "texture" and not codes:
        return f"codes: none, of scenes by {by}"
    parts = [*([labels] if labels else []), *([] if by == "labels" else [BINS])]
    for number, each in enumerate(form.scenes):
        if each.scene != number:
            return f"scenes.{number}.scene: {each.scene}, expected {number}"
        if len(each.centre) != sum(parts):
            return f"scenes.{number}.centre: {len(each.centre)} numbers, expected {sum(parts)}"
        first = 0
        for part in parts:
            values = each.centre[first : first + part]
            first += part
            if min(values) < -_SLIP or abs(sum(values) - 1) > _SLIP:
                return f"scenes.{number}.centre: not histograms, which sum to 1"
        if form.far is not None and each.radius > form.far:
            return f"scenes.{number}.radius: {each.radius:g} is beyond far, {form.far:g}"
    return None
