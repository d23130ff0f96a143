"""Recipes to start from."""

from __future__ import annotations

from engine.errors import RecipeError
from engine.products.registry import PRODUCTS

__all__ = ["TEMPLATES", "init"]


def init(product: str) -> str:
    """A commented recipe to start from, as YAML.

    Parameters
    ----------
    product : {"lcz", "ugs", "cover", "embedding", "train", "train-ugs", "train-cover",
        "train-multilabel", "train-head", "adapt", "propagate"}

    Raises
    ------
    RecipeError
        Where there is no such recipe.
    """
    if product not in TEMPLATES:
        raise RecipeError("no such product", got=product, expected=", ".join(TEMPLATES))
    return TEMPLATES[product]


TEMPLATES = {name: product.template for name, product in PRODUCTS.items()} | {
    "train": """\
# Training of a patch classifier. Composites first: natmap run RECIPE --until composite
name: my-lcz-model

# One entry for each place: the recipe that made its composite, and its labels.
labels:
  - recipe: ./my-city.yaml
    areas: ./my-city.kml          # training areas: KML, KMZ, GeoJSON, GPKG; or
    # raster: ./reference.tif     # a raster of codes 1 to 17
    # within: ./good.tif          # with a raster: only where this one is not 0
    # most: 5000                  # patches of this place, rare classes first
    # pseudo: ./pseudo-labels     # of natmap propagate, that lie here: they train as well

patches: ./patches                # the patch set (Zarr), cut once
# patch: 32                       # side of a patch, px; or 48, 64
# context: 16                     # pixels kept about each patch, for models that see further

split: {by: group, shares: [0.7, 0.1, 0.2]}   # whole training areas; or by: block, or by: place
# split: {by: place, validation: [b], test: [c]}
# split: {by: own}                # of an imported patch set, with labels left out; or by: pool

model:
  architecture: mscnn             # sen2lcz, resnet11, resnet11-3d, …, gcn, forest
  # size: small                   # widths that a CPU can train
  # parameters: {leading: 3}      # of the network; leading: see real neighbours, run dense
  # beside: ./my-s2-model         # of a gcn: its card keeps the weight of both streams that
                                  # validation likes best, and maps of the two take it
  # inference_block: 16           # cells evaluated together; a tile is a whole number of them
  # start: ./another-model        # go on from its weights
  # frozen: true                  # with start: train its dense layers alone
  licence: CC-BY-4.0

training:
  # preset: df4lcz                # a paper's: mscnn, df4lcz, df4lcz-graph, df4lcz-paper, so2sat
  epochs: 100
  patience: 15                    # epochs without a better validation loss
  batch: 96
  rate: 0.002
  # optimizer: nadam              # or adam
  # schedule: cosine              # or constant, step with factor and every, inverse with decay
  # angles: true                  # turn patches by any angle, not by quarters alone
  # l2: 0.0001                    # penalty of convolutions' kernels
  # bootstraps: 25                # of a forest: judge by so many splits of the areas; the model
                                  # then grows on all of them (final: train: on the training part)
  # balance: sqrt                 # chances of classes; none, full; or none and class_weights: true
  # precision: bfloat16           # or float32
  # device: auto

out: ./my-lcz-model               # card.json, weights, report.json, curves.png, confusion.png
""",
    "train-ugs": """\
# Training of a segmenter of urban green space.
name: my-green
product: ugs

# Folders like UGSet's, and places of one's own: images by a map recipe, and what is green in them.
labels:
  - ugset: ./UGSet                # train, val and test, each with images and labels (0 and 255)
  # - recipe: ./my-city.yaml      # product: ugs
  #   raster: ./green.tif         # 1 green, 0 not, 255 unknown; or
  #   polygons: ./parks.gpkg      # green space; with either
  #   within: ./looked-at.gpkg    # labels count in it alone; a boundary card: gub-2018
  #   most: 500                   # chips of this place, drawn by chance

chips: ./chips                    # the chip set (Zarr), cut once
side: 512                         # of a chip, in pixels; a multiple of 16

split: {by: own}                  # as UGSet came; or
# split: {by: block, side: 2000}  # blocks of ground, in metres; or by: place
# split: {by: place, validation: [b], test: [c]}
# split: {by: frame, side: 2000}  # blocks, dealt out so that each split has its share of each scene
# scenes: {by: both}              # group chips by labels, texture or both: rare scenes drawn often
# scenes: {file: ./scenes/scenes.json, only: [0, 3]}   # learn from some scenes alone; a model for
                                  # each: natmap train RECIPE --each scenes/scenes.json

model:
  architecture: ugsnet            # or unet, segnet, pspnet, upernet, bisenet
  # size: small                   # a quarter of the width, for CPUs
  # parameters: {attention: false, point_head: false}
  # imagenet: ./resnet50.safetensors   # weights to begin with, torchvision's names
  # start: ./another-model        # go on from its weights
  # overlap: 64                   # of neighbouring windows of a map, in pixels
  licence: CC-BY-4.0

training:                         # the published settings
  # preset: paper                 # and 1024 points asked of a map, as published; ours are 8192
  epochs: 200
  batch: 8
  rate: 0.0001                    # falls to 0 over the second half
  # precision: bfloat16           # or float32
  # device: auto

out: ./my-green                   # card.json, weights, report.json, curves.png
""",
    "train-cover": """\
# Training of a segmenter of land cover, in classes of your own.
name: my-cover
product: cover

classes:                          # codes of the labels' rasters, and of the map
  - {code: 1, name: water, colour: "0064C8"}
  - {code: 2, name: trees, colour: "006400"}
  - {code: 3, name: low_plants, colour: "B9DB79"}
# ignored: [15]                   # codes that say nothing; 255 is one anyhow

# One entry for each place: a map recipe (its images, or its composite) and a raster of codes.
labels:
  - recipe: ./my-city-cover.yaml
    raster: ./labels.tif
    # place: my-city
  # - chips: ./frames             # or of natmap frames --cut SIDE --labels RASTER

chips: ./chips                    # the chip set (Zarr), cut once
side: 512                         # of a chip, in pixels
split: {by: block, shares: [0.7, 0.1, 0.2], side: 2000}   # or place, with validation and test
# scenes: {by: both}              # group chips by labels, texture or both: rare scenes drawn often;
                                  # split.by: frame then deals blocks out by them

model:
  architecture: ugsnet            # or unet, segnet, pspnet, upernet, bisenet
  # size: small                   # a quarter of the width, for CPUs
  bands: [B04, B03, B02]

training: {epochs: 200, batch: 8, rate: 1.0e-4}

out: ./my-cover                   # the model: card, weights, report
""",
    "train-multilabel": """\
# Training of a multi-label model: which classes occur in a patch. natmap tag applies it.
name: my-labels
product: cover

classes:                          # codes of the labels' rasters
  - {code: 1, name: water, colour: "0064C8"}
  - {code: 2, name: trees, colour: "006400"}
  - {code: 3, name: low_plants, colour: "B9DB79"}
# ignored: [15]                   # codes that say nothing; 255 is one anyhow

multilabel:
  share: 0.01                     # of a chip that a class covers, where it occurs; 0: one pixel
  # others: [0, 4]                # codes that are known, and none of the classes

# One entry for each place: a map recipe (its images, or its composite) and a raster of codes.
labels:
  - recipe: ./my-city-cover.yaml
    raster: ./labels.tif
    # place: my-city
  # - chips: ./frames             # or of natmap frames --cut SIDE --labels RASTER

chips: ./chips                    # the chip set (Zarr), cut once; that of a segmenter serves, too
side: 256                         # of a chip, in pixels: what the model looks at as a whole
split: {by: block, shares: [0.7, 0.1, 0.2], side: 2000}   # or place, with validation and test
# scenes: {by: both}              # rare scenes are drawn more often; see train-cover

model:
  architecture: resnet
  # parameters: {depth: 50}       # 18, or 50, which begins with ImageNet's weights:
  # imagenet: ./resnet50.safetensors
  # size: small                   # a quarter of the width, for CPUs
  bands: [B04, B03, B02]

training: {epochs: 100, batch: 16, rate: 1.0e-3}

out: ./my-labels                  # the model: card, weights, report
""",
    "propagate": """\
# Labels of a few cells, given to cells that look like them. Embeddings first: natmap embed RECIPE
name: my-pseudo-labels

cities:                           # embedded by one model, with one cell
  - recipe: ./berlin-embedding.yaml
    areas: ./berlin.kml           # training areas: KML, KMZ, GeoJSON, GPKG; or
    # raster: ./reference.tif     # a raster of codes 1 to 17
    # held: ./test-areas.geojson  # ground in which nothing is labelled
  - recipe: ./paris-embedding.yaml
    areas: ./paris.kml
  - recipe: ./my-city-embedding.yaml    # without labels: it gets some

# preset: default                 # or notes: votes of the nearest labels, confidence .8
# precision: 0.9                  # that pseudo-labels are to have in a city without labels
# neighbours: 5
# rounds: 1
# most: 500                       # labels of each class and city that take part
# center: city                    # remove each city's mean vector first
# water: 0.8                      # share of published water that makes a cell LCZ G; null: never
out: ./pseudo-labels
""",
    "train-head": """\
# Training of a head: a small classifier on an embedding. Embeddings first: natmap embed RECIPE
name: my-head
product: embedding

cities:                           # embedded by one model, or from the same bands
  - recipe: ./berlin-embedding.yaml
    areas: ./berlin.kml           # training areas: KML, KMZ, GeoJSON, GPKG; or
    # raster: ./reference.tif     # a raster of codes 1 to 17
    # held: ./test-areas.geojson  # labels in it test the head
  - recipe: ./paris-embedding.yaml
    areas: ./paris.kml
# pseudo: ./pseudo-labels         # of natmap propagate: they train, by their confidence
# most: 500                       # labels of each class and city that train

split: {by: block, shares: [0.8, 0, 0.2]}     # or whole cities: {by: place, test: [paris]}

model:
  kind: logistic                  # or knn, mlp, forest
  # tune: false                   # settings as they usually are; else chosen across cities
  # cell: 320                     # of the map, metres; by default 100, from the same patches
  licence: CC-BY-4.0

out: ./my-head                    # card and weights: model.card of a recipe of product lcz
""",
    "adapt": """\
# Adaptation of a segmenter to a city that nobody has labelled; or, with natmap adapt --each CITIES,
# to each city of a polygon file (field name) in the target's area: out then has a folder for each,
# and cities.geojson for model.cities of a map recipe.
name: my-green-elsewhere
product: ugs

model: ./my-green                 # the card to adapt
chips: ./chips                    # the chip set that it was trained on
target: ./elsewhere.yaml          # a map recipe: chips are drawn inside of its mask's boundary
most: 500                         # of them

training:
  # preset: paper                 # adversarial_weight 1, 10000 steps, no guard
  steps: 10000
  batch: 2                        # chips of each side
  adversarial_weight: 0.001
  statistics: auto                # of normalisations: source, target, batch, or as it needs be
  guard: 5                        # points of F1 that the source may lose; beyond, it ends;
                                  # 100 never ends it
  check: 250                      # steps between looks at the source

out: ./my-green-elsewhere
""",
}
