"""The one national grid: tiles, windows and halos on it, and the area that is wanted."""

from engine.grid.area import Area, Support
from engine.grid.grid import Grid, Tile, Window, curve_order

__all__ = ["Area", "Grid", "Support", "Tile", "Window", "curve_order"]
