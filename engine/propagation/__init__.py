"""From few labels to many: features of cells, neighbours, heads, guards. Imports no torch."""
