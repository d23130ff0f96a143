"""natmap: from a STAC catalogue and a model to a national map of cities.

The verbs, in the order the data flows; the command's verbs of the same name do the same:

============ =====================================================
init         a commented recipe to start from
ingest       a STAC catalogue of your own images
doctor       what is right and wrong with machine, store, recipe
plan         what a run would do, and why
run          run all that is missing or stale
status       tiles done, failed and blocked, with reasons
publish      COG, STAC, preview and report
embed        a vector of features for each cell, made and published
diff         what changed between two releases
prune        forget a store's older commits
verify       whether a store holds what was written
migrate      copy a store of an older form into one that runs can continue
areas        a page of training areas, the doubtful ones first
label        a page on which people label sites, with a rule's proposals
train        a model from labels and composites or images
adapt        a segmenter of green space to a city without labels
propagate    labels of a few cells to cells that look like them
convert      weights from elsewhere into a model card
sample       cells of a map to look at, or sites to label
landscape    how fragmented a map of classes is, by region, class and unit
scenes       patches that show the same kind of place
find         what is most like an image, a patch or a place
frames       which frames of a catalogue show sites, and patches about them
evaluate     a map against what is known
tag          which classes occur in patches, by a multi-label model
beside       how green each local climate zone is
synthesize   a made-up country
bench        how fast a recipe runs here, beside what it could not be faster than
============ =====================================================

The command's verb `compare` has another name here, since a room is called so; `adapt --each`,
`train --each`, `scenes --like`, and `natmap label` of answers, are functions of their own:

=============== ==================================================
compare_systems several models or maps on the same examples
adapt_cities    a segmenter of green space to each of many cities
train_scenes    a model for each scene of a set
assign_scenes   patches to the scenes of an earlier set
settle_labels   answers of interpreters as training areas
=============== ==================================================

In a notebook:

============ =====================================================
open_store   the groups of a store as an xarray DataTree
open_cube    a lazy xarray view of a catalogue's scenes
composite    one image of a cube's days, as a run makes it
score        a model's scores of a composite, as a run makes them
============ =====================================================

What they take:

============ =====================================================
Recipe       all that a run is told
load_recipe  a recipe's file, read, overridden, validated
Area         the wanted part of the Earth
Country      a made-up country, for `synthesize`
World        the seed of one
============ =====================================================

What they raise:

================== ===============================================
NatmapError        the base of all
RecipeError        the recipe or the command is wrong
AreaError          the area cannot be mapped
GridError          CRS, tile and chunk do not fit together
CatalogError       a catalogue cannot be searched or used
ItemError          one item cannot be used
ReadError          one asset cannot be read
CardError          a model, source or boundary card is wrong
WeightsError       weights are unsafe, damaged, of another model
StoreError         the store cannot be used
IdentityError      it belongs to another grid
LockedError        another driver is at work on it
ChunkError         a task wrote chunks that are not its own
RunError           the run cannot go on
DeviceError        a GPU is not there, broken or too small
SchedulerLostError the scheduler is gone, what was done is kept
LabelError         labels cannot be used
MetricError        map and reference cannot be compared
PublishError       the product cannot be written
================== ===============================================

All are loaded when first used: importing the package costs milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what checkers and editors see; `_HOMES` is the same for Python
    from engine.catalog.ingest import ingest
    from engine.compare.comparison import compare_systems
    from engine.compare.crosstab import beside
    from engine.compare.evaluate import evaluate
    from engine.compare.releases import diff
    from engine.compare.tagging import tag
    from engine.datasets.labelling import label
    from engine.datasets.review import review as areas
    from engine.datasets.site_chips import frames
    from engine.errors import (
        AreaError,
        CardError,
        CatalogError,
        ChunkError,
        DeviceError,
        GridError,
        IdentityError,
        ItemError,
        LabelError,
        LockedError,
        MetricError,
        NatmapError,
        PublishError,
        ReadError,
        RecipeError,
        RunError,
        SchedulerLostError,
        StoreError,
        WeightsError,
    )
    from engine.grid.area import Area
    from engine.labels.settling import settle_labels
    from engine.models.convert import convert
    from engine.notebook.cube import open_cube
    from engine.notebook.kernels import composite, score
    from engine.pipeline.doctor import examine as doctor
    from engine.pipeline.embed import embed
    from engine.pipeline.migrate import migrate
    from engine.pipeline.prune import prune
    from engine.pipeline.publish import publish
    from engine.pipeline.status import read_status as status
    from engine.pipeline.templates import init
    from engine.pipeline.verbs import plan, run
    from engine.products.registry import load_recipe
    from engine.recipes.run import Recipe
    from engine.similarity.assigning import assign_scenes
    from engine.similarity.find import find
    from engine.similarity.scenes import scenes
    from engine.sites.landscape import landscape
    from engine.sites.sampling import sample
    from engine.store.verify import verify
    from engine.store.view import open_store
    from engine.synthetic.country import Country
    from engine.synthetic.districts import World
    from engine.synthetic.make import synthesize
    from engine.throughput.bench import bench
    from engine.training.adapt import adapt
    from engine.training.adapt_cities import adapt_cities
    from engine.training.propagation import propagate_labels as propagate
    from engine.training.scene_models import train_scenes
    from engine.training.train import train

    __version__: str

__all__ = [
    "Area",
    "AreaError",
    "CardError",
    "CatalogError",
    "ChunkError",
    "Country",
    "DeviceError",
    "GridError",
    "IdentityError",
    "ItemError",
    "LabelError",
    "LockedError",
    "MetricError",
    "NatmapError",
    "PublishError",
    "ReadError",
    "Recipe",
    "RecipeError",
    "RunError",
    "SchedulerLostError",
    "StoreError",
    "WeightsError",
    "World",
    "adapt",
    "adapt_cities",
    "areas",
    "assign_scenes",
    "bench",
    "beside",
    "compare_systems",
    "composite",
    "convert",
    "diff",
    "doctor",
    "embed",
    "evaluate",
    "find",
    "frames",
    "ingest",
    "init",
    "label",
    "landscape",
    "load_recipe",
    "migrate",
    "open_cube",
    "open_store",
    "plan",
    "propagate",
    "prune",
    "publish",
    "run",
    "sample",
    "scenes",
    "score",
    "settle_labels",
    "status",
    "synthesize",
    "tag",
    "train",
    "train_scenes",
    "verify",
]

_HOMES = {
    "Area": "engine.grid.area.Area",
    "Country": "engine.synthetic.country.Country",
    "Recipe": "engine.recipes.run.Recipe",
    "World": "engine.synthetic.districts.World",
    "adapt": "engine.training.adapt.adapt",
    "adapt_cities": "engine.training.adapt_cities.adapt_cities",
    "assign_scenes": "engine.similarity.assigning.assign_scenes",
    "areas": "engine.datasets.review.review",
    "beside": "engine.compare.crosstab.beside",
    "compare_systems": "engine.compare.comparison.compare_systems",
    "composite": "engine.notebook.kernels.composite",
    "convert": "engine.models.convert.convert",
    "diff": "engine.compare.releases.diff",
    "doctor": "engine.pipeline.doctor.examine",
    "embed": "engine.pipeline.embed.embed",
    "evaluate": "engine.compare.evaluate.evaluate",
    "find": "engine.similarity.find.find",
    "ingest": "engine.catalog.ingest.ingest",
    "init": "engine.pipeline.templates.init",
    "frames": "engine.datasets.site_chips.frames",
    "label": "engine.datasets.labelling.label",
    "bench": "engine.throughput.bench.bench",
    "landscape": "engine.sites.landscape.landscape",
    "load_recipe": "engine.products.registry.load_recipe",
    "migrate": "engine.pipeline.migrate.migrate",
    "open_cube": "engine.notebook.cube.open_cube",
    "open_store": "engine.store.view.open_store",
    "plan": "engine.pipeline.verbs.plan",
    "propagate": "engine.training.propagation.propagate_labels",
    "prune": "engine.pipeline.prune.prune",
    "publish": "engine.pipeline.publish.publish",
    "run": "engine.pipeline.verbs.run",
    "sample": "engine.sites.sampling.sample",
    "scenes": "engine.similarity.scenes.scenes",
    "score": "engine.notebook.kernels.score",
    "settle_labels": "engine.labels.settling.settle_labels",
    "status": "engine.pipeline.status.read_status",
    "synthesize": "engine.synthetic.make.synthesize",
    "tag": "engine.compare.tagging.tag",
    "train": "engine.training.train.train",
    "train_scenes": "engine.training.scene_models.train_scenes",
    "verify": "engine.store.verify.verify",
}
"""Where each name lies; all others of `__all__` are errors."""

if not TYPE_CHECKING:  # for checkers a name that is not imported above is an error

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name == "__version__":
            from importlib.metadata import version

            return version("natmap")
        if name in __all__:
            home, _, own = _HOMES.get(name, f"engine.errors.{name}").rpartition(".")
            return getattr(import_module(home), own)
        raise AttributeError(f"module 'engine' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*__all__, *globals(), "__version__"})
