"""natmap: from a STAC catalogue and a model to a national map of cities.

The verbs, in the order the data flows, loaded when first used:

========== ======================================================
ingest     a STAC catalogue of your own images
open_cube  a lazy xarray view of scenes (stackstac)
plan       what a run would do, and why
run        run all that is missing or stale
open_store the groups of a store as an xarray DataTree
publish    COG, STAC, preview and report
diff       what changed between two releases
prune      forget a store's older commits
train      a model from labels and composites
evaluate   a map against what is known
synthesize a made-up country
========== ======================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = [
    "diff",
    "evaluate",
    "ingest",
    "open_cube",
    "open_store",
    "plan",
    "prune",
    "publish",
    "run",
    "synthesize",
    "train",
]

_HOMES = {
    "diff": "engine.pipeline.changes",
    "evaluate": "engine.pipeline.evaluate",
    "ingest": "engine.catalog.ingest",
    "open_cube": "engine.pipeline.cube",
    "open_store": "engine.store.view",
    "plan": "engine.pipeline.verbs",
    "prune": "engine.pipeline.changes",
    "publish": "engine.pipeline.release",
    "run": "engine.pipeline.verbs",
    "synthesize": "engine.synthetic.make",
    "train": "engine.pipeline.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
