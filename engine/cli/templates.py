"""Recipes to start from."""

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

cube:
  composite: median      # or mean, medoid
  keep_scenes: true      # false: no stored scenes, cheaper to keep, dearer to update
  cloud_dilation: 60     # metres around cloud and shadow
  # mask_snow: false

model:
  card: ./sen2lcz        # folder of a model card
  device: auto           # cpu, cuda
  # precision: float32   # or bfloat16
  # embedding: false     # also store the penultimate features

filter: {method: gaussian}   # or majority, none

# mask: {boundaries: ne-urban-areas}   # a boundary card, or any polygon file

store: ./my-city
publish: ./my-city-product
# price_per_worker_hour: 0.10
""",
}
