"""Features: what rasters and vectors of a user say of the ground, on the grid with a mask."""
