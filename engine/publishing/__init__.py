"""The product folder: COG, STAC, preview, report."""
