"""Embed: the vectors of a recipe's cells, made and published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.clusters.connect import Opened
from engine.clusters.settings import ClusterSettings
from engine.errors import RunError
from engine.pipeline.publish import publish
from engine.pipeline.verbs import load, run
from engine.products.embedding import embedding_of
from engine.recipes.run import Recipe
from engine.runs.events import Listener
from engine.runs.execute import Limits

__all__ = ["embed"]


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
