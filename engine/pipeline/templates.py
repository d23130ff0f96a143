"""Recipes to start from."""

from __future__ import annotations

from engine.errors import RecipeError

__all__ = ["TEMPLATES", "init"]


def init(product: str) -> str:
    """A commented recipe to start from, as YAML.

    Parameters
    ----------
    product : {"lcz", "ugs", "train", "train-ugs", "adapt"}

    Raises
    ------
    RecipeError
        Where there is no such recipe.
    """
    if product not in TEMPLATES:
        raise RecipeError("no such product", got=product, expected=", ".join(TEMPLATES))
    return TEMPLATES[product]


TEMPLATES = {
    "lcz": """\
# Local climate zones at 100 m. Lines that begin with # may be uncommented.
name: my-city-lcz-2023
product: lcz

# One of: bbox (west, south, east, north in degrees), file (polygons), country (ISO code; needs
# NATMAP_BOUNDARIES to point to a folder with Natural Earth countries).
area: {bbox: [13.25, 52.48, 13.35, 52.53]}

grid:
  crs: EPSG:32633        # projected, in metres: one for the whole country
  resolution: 10         # metres
  tile: 1600             # pixels; a multiple of 160
  # chunk: 400           # pixels; divides the tile
  # origin: [0, 0]       # a corner of the lattice, metres

imagery:
  catalog: earth-search  # a card (earth-search, earth-search-c1, planetary-computer, cdse), a
                         # card file of your own, or the path or address of a STAC catalogue
  period: 2023-03-01/2023-06-30
  max_cloud_cover: 40    # percent
  # bands: [B02, B03]    # by default the model's

# images: {catalog: ./photos-stac/catalog.json}   # 1 m, red green blue; for a fused model
# instances: {segmenter: felzenszwalb}            # or slic; or sam with checkpoint: FOLDER
                                                  # and segmentation: per_window

cube:
  composite: median      # or mean, medoid
  keep_scenes: true      # false: no stored scenes, cheaper to keep, dearer to update
  cloud_dilation: 60     # metres around cloud and shadow
  # mask_snow: false

model:
  card: ./sen2lcz        # folder of a model card
  # instances: ./graphs  # card of a graph network over the images, fused with the other's scores
  # sentinel_weight: 0.6 # what the other counts; natmap train finds the best
  device: auto           # cpu, cuda
  # precision: float32   # or bfloat16
  # embedding: false     # also store the penultimate features

filter: {method: gaussian}   # or majority, none

# mask: {boundaries: ne-urban-areas}   # a boundary card, or any polygon file

store: ./my-city
publish: ./my-city-product
# price_per_worker_hour: 0.10
""",
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

patches: ./patches                # the patch set (Zarr), cut once
# context: 16                     # pixels kept about each patch, for models that see further

split: {by: group, shares: [0.7, 0.1, 0.2]}   # whole training areas; or by: block, or by: place
# split: {by: place, validation: [b], test: [c]}
# split: {by: own}                # of an imported patch set, with labels left out; or by: pool

model:
  architecture: mscnn             # sen2lcz, resnet11, resnet11-3d, …, gcn, forest
  # size: small                   # widths that a CPU can train
  # parameters: {leading: 3}      # of the network; leading: see real neighbours, run dense
  # beside: ./my-s2-model         # of a gcn: sweep the weight of both streams on validation
  # inference_block: 16           # cells evaluated together; a tile is a whole number of them
  # start: ./another-model        # go on from its weights; frozen: true trains the last layers
  licence: CC-BY-4.0

training:
  # preset: df4lcz                # a paper's: mscnn, df4lcz, df4lcz-graph, so2sat
  epochs: 100
  patience: 15                    # epochs without a better validation loss
  batch: 96
  rate: 0.002
  # schedule: cosine              # or constant, or step with factor and every
  # balance: sqrt                 # chances of classes; none, full; or none and class_weights: true
  # precision: bfloat16           # or float32
  # device: auto

out: ./my-lcz-model               # card.json, weights, report.json, curves.png, confusion.png
""",
    "ugs": """\
# Urban green space at 1 m. Lines that begin with # may be uncommented.
name: my-city-green-2023
product: ugs

area: {bbox: [13.35, 52.50, 13.40, 52.53]}   # or file: POLYGONS, or country: ISO CODE

grid:
  crs: EPSG:25833        # projected, in metres
  # tile: 4000           # pixels of 1 m; a multiple of 100, and no smaller than a window
  # chunk: 1000          # pixels; divides the tile

images:
  catalog: ./photos-stac/catalog.json   # natmap ingest FOLDER makes one; or a card (naip), or the
                                        # path or address of a STAC catalogue
  # period: 2021-01-01/2023-12-31       # by default of any day
  # keep: false          # true: the mosaic is stored, for another model to be run on
  # order: newest        # which frame shows where several do; or nadir; or [ids that go first]

model:
  card: ./my-green       # folder of a segmenter's card
  device: auto           # cpu, cuda
  # precision: float32   # or bfloat16

mask: {boundaries: gub-2018}   # urban boundaries: a card, or any polygon file; only they are run

store: ./my-city-green
publish: ./my-city-green-product
# price_per_worker_hour: 0.10
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
  #   polygons: ./parks.gpkg      # green space, and
  #   within: ./looked-at.gpkg    # where everything else is none
  #   most: 500                   # chips of this place, drawn by chance

chips: ./chips                    # the chip set (Zarr), cut once
side: 512                         # of a chip, in pixels; a multiple of 16

split: {by: own}                  # as UGSet came; or
# split: {by: block, side: 2000}  # blocks of ground, in metres; or by: place
# split: {by: place, validation: [b], test: [c]}

model:
  architecture: ugsnet            # or unet
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
    "adapt": """\
# Adaptation of a segmenter to a city that nobody has labelled.
name: my-green-elsewhere
product: ugs

model: ./my-green                 # the card to adapt
chips: ./chips                    # the chip set that it was trained on
target: ./elsewhere.yaml          # a map recipe: chips are drawn inside of its mask's boundary
most: 500                         # of them

training:
  # preset: paper                 # adversarial_weight 1, 10000 steps
  steps: 10000
  batch: 2                        # chips of each side
  adversarial_weight: 0.001
  statistics: auto                # of normalisations: source, target, batch, or as it needs be
  guard: 5                        # points of F1 that the source may lose; beyond, it ends
  check: 250                      # steps between looks at the source

out: ./my-green-elsewhere
""",
}
