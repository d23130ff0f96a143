"""Train: labels to a model with its card and report, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.addresses import public
from engine.datasets.patch_cutting import with_channels
from engine.errors import LabelError
from engine.files import together
from engine.models.card import ModelCard
from engine.models.card_parts import of_vectors
from engine.models.footprint import FOOTPRINT, write_footprint
from engine.models.mlm import write_card
from engine.models.registry import save_model
from engine.products.registry import load_training
from engine.publishing.charts import draw_curves
from engine.recipes.classifying import ClassifierRecipe
from engine.recipes.heads import HeadRecipe
from engine.recipes.segmenting import SegmenterRecipe
from engine.recipes.training import TrainingRecipe
from engine.training.classifying import ForestTask, GraphTask, PatchTask
from engine.training.heads import HeadTask
from engine.training.loop import Epoch
from engine.training.multilabelling import MultiLabelTask
from engine.training.segmenting import SegmenterTask
from engine.training.task import Listener, Task, write_report
from engine.training.zones import ZoneTask

__all__ = ["Trained", "learn_task", "train"]

_MADE = (FOOTPRINT, "curves.png", "confusion.png")  # beside card, weights and report


@dataclass(frozen=True)
class Trained:
    """A model, and how good it is on examples that it has not seen.

    Attributes
    ----------
    card : ModelCard
    figures : of the test split, None where it is empty.
    epochs : of the training; 0 of a forest.
    words : the figures, for people.
    more : what else was found: ``fusion`` of a graph network beside another stream, ``bootstraps``
        of a forest.
    """

    card: ModelCard
    figures: dict[str, float] | None
    epochs: int
    words: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def train(
    recipe: TrainingRecipe | str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    epoch: Callable[[Epoch], None] = lambda entry: None,
    step: Callable[[int, int, int], None] = lambda number, batch, batches: None,
) -> Trained:
    """Train a model: cut examples unless they are cut, fit, write card, weights and report.

    A training that was killed resumes after its last epoch.

    Parameters
    ----------
    recipe : recipe of a training, a mapping, or the path of a recipe file.
    base : folder of the recipe's relative paths; by default the file's own.
    tell, epoch, step : hear of steps, finished epochs and batches.

    Raises
    ------
    NatmapError
        Before the training starts, where labels, images or the split do not serve.
    """
    if not isinstance(recipe, TrainingRecipe):
        if base is None and isinstance(recipe, str | Path):
            base = Path(recipe).parent
        recipe = load_training(recipe)
    base = base or Path()
    if isinstance(recipe, ClassifierRecipe):
        recipe = with_channels(recipe, base)
        _require_graphs(recipe)
    hear = Listener(tell, epoch, step)
    return learn_task(_task(recipe, base, hear), recipe, hear)


def learn_task(task: Task, recipe: TrainingRecipe, hear: Listener, **made: Any) -> Trained:
    """Fit a task's model, and write card, weights and report into its folder.

    Parameters
    ----------
    task : what is trained.
    recipe : of it, for the report.
    hear : hears of steps, finished epochs and batches.
    made : what else the report says.
    """
    folder, tell = task.folder, hear.tell
    tell(f"training {task.card.architecture} on {task.size}")
    card, fitted = task.learn(hear)
    history = [asdict(entry) for entry in fitted.history]
    with together(folder, mark="card.json", before=_MADE) as part:
        card = save_model(card, fitted.weights, part)
        if (ground := task.footprint()) is not None:
            write_footprint(part, ground)
        if history:
            draw_curves(history, fitted.best, part / "curves.png")
        judged = task.judge(card, hear)
        if judged.fusion is not None:
            card = card.model_copy(update={"fusion": judged.fusion})
            write_card(card, part)
        write_report(
            part,
            task.software,
            recipe=public(recipe.model_dump(mode="json")),
            **task.describe(),
            best_epoch=fitted.best,
            history=history,
            test=judged.figures,
            **judged.more,
            **made,
        )
    (folder / "state.pt").unlink(missing_ok=True)  # what it held is in the weights now
    card = card.model_copy(update={"folder": folder})
    return Trained(card, judged.figures, len(history), judged.words, judged.more)


def _require_graphs(recipe: ClassifierRecipe) -> None:
    """Refuse a graph network of published vectors before patches of them are cut."""
    if recipe.model.architecture == "gcn" and of_vectors(recipe.model.bands):
        raise LabelError(
            "a graph network looks at instances of 1 m images",
            got="labels of published embeddings",
            expected="labels of recipes with imagery and images",
            remedy="take a network of patches or a forest, or name such recipes under labels",
        )


def _task(recipe: TrainingRecipe, base: Path, hear: Listener) -> Task:
    """What the recipe's schema, and of classifiers its network, ask for."""
    if isinstance(recipe, SegmenterRecipe):
        task = SegmenterTask if recipe.occurs is None else MultiLabelTask
        return task(recipe, base, hear)
    if isinstance(recipe, HeadRecipe):
        return HeadTask(recipe, base, hear)
    assert isinstance(recipe, ClassifierRecipe)
    others: dict[str, type[PatchTask]]
    others = {"forest": ForestTask, "gcn": GraphTask, "unet": ZoneTask}
    return others.get(recipe.model.architecture, PatchTask)(recipe, base, hear)
