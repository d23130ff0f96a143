"""Embed: the vectors of a recipe's cells, made and published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.clusters.connect import Opened
from engine.clusters.settings import ClusterSettings
from engine.errors import RecipeError, RunError
from engine.pipeline.publish import publish
from engine.pipeline.verbs import load, run
from engine.products.embedding import EmbeddingRecipe
from engine.products.lcz import LczRecipe
from engine.recipes.run import Recipe
from engine.recipes.sections import ModelChoice
from engine.runs.events import Listener
from engine.runs.execute import Limits

__all__ = ["embed", "embedding_of"]

_SUFFIX = "-embedding"


def embed(
    recipe: Recipe | str | Path | dict[str, Any],
    *,
    base: Path | None = None,
    cluster: str | ClusterSettings | Opened = "local",
    workers: int | None = None,
    listeners: Sequence[Listener] = (),
    limits: Limits | None = None,
) -> Path | str:
    """Make the embedding of every cell that is missing or stale, and publish all of them.

    Parameters
    ----------
    recipe : of product embedding; or of local climate zones, whose area, scenes and model are taken
        (`embedding_of`).
    base, cluster, workers, listeners, limits : as in `run`.

    Returns
    -------
    The product folder, or its address where it is in a bucket.

    Raises
    ------
    NatmapError
        Where tiles failed, the others are kept and nothing is published.
    """
    given, base = load(recipe, base)
    wanted = embedding_of(given)
    summary = run(
        wanted, base=base, cluster=cluster, workers=workers, listeners=listeners, limits=limits
    )
    if summary.failed or summary.stopped:
        raise RunError(
            "the embedding is not whole; what was made is kept",
            got=f"{len(summary.failed)} tiles failed"
            + (", and the run was stopped" if summary.stopped else ""),
            remedy="run the same command again",
        )
    return publish(wanted, base=base)


def embedding_of(recipe: Recipe) -> EmbeddingRecipe:
    """The embedding of a recipe: itself, or what a map of local climate zones is made from.

    Its store and its product folder are those of the recipe with ``-embedding`` at their end.

    Raises
    ------
    RecipeError
        Where there is none.
    """
    if isinstance(recipe, EmbeddingRecipe):
        return recipe
    if not isinstance(recipe, LczRecipe) or recipe.model is None:
        raise RecipeError(
            "the recipe has nothing to embed",
            got=f"product: {recipe.product}" + ("" if recipe.product != "lcz" else ", no model"),
            expected="a recipe of product embedding, or of product lcz with a model",
            remedy="start from `natmap init embedding`",
        )
    return EmbeddingRecipe(
        name=f"{recipe.name}{_SUFFIX}"[-100:],
        product="embedding",
        area=recipe.area,
        grid=recipe.grid,
        imagery=recipe.imagery,
        cube=recipe.cube,
        model=ModelChoice(
            card=recipe.model.card, device=recipe.model.device, precision=recipe.model.precision
        ),
        vectors=recipe.model.embedding or "float16",
        store=f"{recipe.store.rstrip('/')}{_SUFFIX}",
        publish=f"{(recipe.publish or f'{recipe.store}-product').rstrip('/')}{_SUFFIX}",
        publication=recipe.publication,
        price_per_worker_hour=recipe.price_per_worker_hour,
    )
