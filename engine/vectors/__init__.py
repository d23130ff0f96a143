"""Polygons and their attributes, from files of every form that people keep them in."""
