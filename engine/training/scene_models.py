"""One model for each scene of a file, from one recipe: and the file that a map takes of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zarr

from engine.addresses import public
from engine.datasets.chip_cutting import cut_chips
from engine.errors import NatmapError, RecipeError, first_line
from engine.files import together, write_whole
from engine.models.card import ModelCard, find_card, load_card, verify_weights
from engine.products.registry import load_training
from engine.recipes.segmenting import SceneChoice, SegmenterRecipe
from engine.recipes.training import TrainingRecipe
from engine.texture.scene_file import KnownScenes, read_scenes
from engine.training.loop import Epoch
from engine.training.scenes import assigned_scenes, scenes_of_places
from engine.training.segmenting import SegmenterTask
from engine.training.task import Listener, write_report
from engine.training.train import learn_task

__all__ = ["SCENES", "SceneModel", "SceneModels", "train_scenes"]

SCENES = "scenes.json"
"""Of the folder of models: the scenes with their cards, for `model.scenes` of a map recipe."""

_REPORT = "report.json"
_DIGITS = 16  # of a digest that is kept
_NO_MATTER = {"name", "out", "chips", "labels", "scenes"}
"""Keys of a recipe that decide no weight, or whose content is looked at itself."""


@dataclass(frozen=True)
class SceneModel:
    """What became of a scene.

    Attributes
    ----------
    scene : its number.
    state : trained; kept from an earlier call; or failed.
    reason : why.
    folder : of its card, by its name beside the others; None where there is no card.
    card, key : name and key of its card.
    """

    scene: int
    state: str
    reason: str
    folder: str | None = None
    card: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class SceneModels:
    """Where the models are, and what became of each scene."""

    folder: Path
    scenes: tuple[SceneModel, ...]

    @property
    def failed(self) -> tuple[SceneModel, ...]:
        """Those without a card."""
        return tuple(each for each in self.scenes if each.state == "failed")


def train_scenes(
    recipe: TrainingRecipe | str | Path | Mapping[str, Any],
    each: str | Path,
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    epoch: Callable[[Epoch], None] = lambda entry: None,
    step: Callable[[int, int, int], None] = lambda number, batch, batches: None,
) -> SceneModels:
    """Train a segmenter for each scene of a file, from the chips of that scene alone.

    Each scene gets a folder of its own in the recipe's `out`, with card, weights and report. One
    that is there, whole, and of the same recipe, chips and scenes is kept. A scene that cannot be
    learnt, for want of chips say, is listed with the reason in `report.json`, and the others are
    done. `scenes.json` is the file again, with the card of each scene that has one; it is written
    last.

    Parameters
    ----------
    recipe : recipe of a segmenter's training, a mapping, or the path of a recipe file.
    each : ``scenes.json`` of `natmap scenes`.
    base : folder of the recipe's relative paths; by default the file's own.
    tell, epoch, step : hear of steps, finished epochs and batches.

    Raises
    ------
    NatmapError
        Before the first training, where labels, images, the split or the scenes do not serve.
    """
    if not isinstance(recipe, TrainingRecipe):
        if base is None and isinstance(recipe, str | Path):
            base = Path(recipe).parent
        recipe = load_training(recipe)
    base = base or Path()
    if not isinstance(recipe, SegmenterRecipe) or recipe.occurs is not None:
        raise RecipeError(
            "only segmenters are trained by scene",
            got="the recipe of another model",
            expected="product: ugs, or cover, without occurs",
        )
    given = set() if recipe.scenes is None else recipe.scenes.model_fields_set - {"balance"}
    if given:
        raise RecipeError(
            "scenes come from --each",
            got=f"scenes: {', '.join(sorted(given))}",
            remedy="leave these keys out of the recipe",
        )
    known = read_scenes(Path(each))
    hear = Listener(tell, epoch, step)
    told = os.path.relpath(Path(each).resolve(), base.resolve())
    first = _of_scene(recipe, told, 0)
    chips = cut_chips(
        first, base, scenes_of=lambda parts: scenes_of_places(first, parts, base), tell=tell
    )
    scene = assigned_scenes(known, chips, tell)
    source = _source_of(recipe, base, known)
    out = base / recipe.out
    done: list[SceneModel] = []
    for number in range(len(known)):
        tell(f"scene {number}, {number + 1} of {len(known)}")
        mine = _of_scene(recipe, told, number)
        folder, made_of = base / mine.out, source | {"scene": str(number)}
        card, why = _kept(folder, made_of)
        state = "trained" if card is None else "kept"
        tell(f"{state} scene {number}: {why}" if card else f"scene {number} is trained: {why}")
        if card is None:
            if (out / SCENES).resolve() != Path(each).resolve():
                (out / SCENES).unlink(missing_ok=True)  # it may name a card that now changes
            try:
                task = SegmenterTask(mine, base, hear, scene)
                card = learn_task(task, mine, hear, made_of=made_of).card
            except NatmapError as error:
                why = error.what if error.got is None else f"{error.what}: {error.got}"
                done.append(SceneModel(number, "failed", why))
                tell(f"scene {number} failed: {why}")
                continue
        done.append(SceneModel(number, state, why, folder.name, card.name, card.key))
    _write(recipe, known, out, done)
    return SceneModels(out, tuple(done))


def _of_scene(recipe: SegmenterRecipe, file: str, number: int) -> SegmenterRecipe:
    """The recipe of one scene's model."""
    name = f"scene-{number}"
    return recipe.model_copy(
        update={
            "name": f"{recipe.name[: 99 - len(name)]}-{name}",
            "out": str(Path(recipe.out) / name),
            "scenes": SceneChoice(file=file, only=(number,)),
        }
    )


def _source_of(recipe: SegmenterRecipe, base: Path, known: KnownScenes) -> dict[str, str]:
    """What all scenes share, each by a digest."""
    group: Any = zarr.open_group(str(base / recipe.chips), mode="r")["chips"]
    settings = recipe.model_dump(mode="json", exclude=_NO_MATTER)
    for name in ("device", "devices"):
        settings["training"].pop(name, None)
    found = {"chips": str(group.attrs["key"]), "scenes": known.key, "settings": _digest(settings)}
    if recipe.model.start is not None:
        found["start"] = load_card(find_card(recipe.model.start, base)).key
    if recipe.model.imagenet is not None:
        content = (base / recipe.model.imagenet).read_bytes()
        found["imagenet"] = hashlib.sha256(content).hexdigest()[:_DIGITS]
    return found


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _kept(folder: Path, made_of: Mapping[str, str]) -> tuple[ModelCard | None, str]:
    """The card of an earlier call where it serves, and why it does or does not."""
    if not (folder / "card.json").is_file():
        return None, "it has no card yet"
    try:
        then = json.loads((folder / _REPORT).read_text(encoding="utf-8"))["made_of"]
        card = load_card(folder)
        verify_weights(card)
        changed = [name for name in {**then, **made_of} if then.get(name) != made_of.get(name)]
    except NatmapError as error:
        return None, f"its card is not whole ({first_line(error)})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, "nothing says what its card was made of"
    if changed:
        return None, f"of another {', '.join(changed)} than its card"
    return card, f"its card is of the same {', '.join(made_of)}"


def _write(recipe: SegmenterRecipe, known: KnownScenes, out: Path, done: list[SceneModel]) -> None:
    """The report, and the scenes with their cards."""
    with together(out) as part:
        write_report(
            part,
            ("torch", "numpy"),
            recipe=public(recipe.model_dump(mode="json")),
            key=known.key,
            scenes=[asdict(each) for each in done],
        )
    folders = {each.scene: each.folder for each in done if each.folder is not None}
    if not folders:
        return
    scenes = []
    for scene in known.document["scenes"]:
        own = {name: value for name, value in scene.items() if name != "card"}
        folder = folders.get(scene["scene"])
        scenes.append(own if folder is None else own | {"card": f"./{folder}"})
    document = {**known.document, "scenes": scenes}
    write_whole(out / SCENES, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
